"""Sphinx: tables of options, from where `crosscoders components` has them.

In a page, `<!-- options: loss -->` becomes a section with a table for each loss, and `<!-- options: run -->` the tables
of a run's config.
"""

from __future__ import annotations

import re
from typing import Any

from crosscoders import RunConfig, get_registry
from crosscoders.plugins.options import Option, options_of

PLACE = re.compile(r"^<!-- options: (.+) -->$", re.MULTILINE)
PAGES = {
    "architecture": "architectures.md#options",
    "loss": "losses.md#options",
    "loss term": "losses.md#options-of-terms",
    "model adapter": "adapters.md#options",
    "token source": "token-sources.md#options",
}
"""Where the options of a kind are, within `components/`."""


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("source-read", _read)
    return {"parallel_read_safe": True}


def _read(app: Any, page: str, source: list[str]) -> None:
    source[0] = rendered(source[0], page)


def rendered(text: str, page: str) -> str:
    """The Markdown of a page, with tables in the places that ask for them."""
    folder = "" if page.startswith("components/") else "../components/"
    return PLACE.sub(lambda place: "\n".join(_section(place[1], folder)), text)


def _section(kind: str, folder: str) -> list[str]:
    if kind == "run":
        options = options_of(RunConfig)
        tables = dict.fromkeys(option.name.rpartition(".")[0] for option in options)
        lines = []
        for name in tables:
            mine = [option for option in options if option.name.rpartition(".")[0] == name]
            lines += ["", f"## `[{name}]`" if name else "## At the top", "", *_table(mine, folder, within=name)]
        return lines
    catalog = get_registry().catalog(kind)
    lines = []
    for offer in (*catalog.built_in, *catalog.offers):
        options = options_of(offer.config_class())
        lines += ["", f"### Options of `{offer.spec.name}`", "", offer.spec.summary, ""]
        lines += _table(options, folder) if options else ["It has none."]
    return [*lines, ""]


def _table(options: list[Option], folder: str, within: str = "") -> list[str]:
    lines = ["| option | type | default | meaning |", "| --- | --- | --- | --- |"]
    for option in options:
        kind = option.kind
        if option.chooses in PAGES:
            kind = f"[{kind}]({folder}{PAGES[option.chooses]})" if "[" not in kind else kind
        default = option.default_text
        cells = (f"`{option.name.removeprefix(f'{within}.')}`", kind, default if option.required else f"`{default}`")
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in (*cells, option.meaning))} |")
    return lines
