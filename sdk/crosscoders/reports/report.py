"""A report: what an analysis found, as one self-contained HTML page and as JSON.

The page has no scripts and loads nothing from the network; every token is escaped.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from attrs import field, frozen
from jinja2 import ChoiceLoader, Environment, PackageLoader, PrefixLoader
from markupsafe import Markup

from ..converters import as_tuple
from ..errors import AnalysisError
from ..files import disk_errors, write_whole
from ..pages import asset, visible
from ..reading import finite
from .parts import Context, Figure, Part, Table

if TYPE_CHECKING:
    import pandas

TERMS = {
    "crosscoder": "A dictionary of directions that is learned from a model's activations: each token's activations are "
    "rebuilt as a sum of a few of them.",
    "latent": "One entry of the dictionary. On each token it has an activation, 0 on most, and it writes its own "
    "direction at each site, times that activation. Orange in examples: the stronger, the more active.",
    "L0": "The mean number of latents that are active on a token.",
    "explained variance": "How well activations are rebuilt: 1 is exactly, 0 no better than their mean.",
    "site": "A place in a model whose activations are read and rebuilt: the model, then the point in it, such as "
    "chat/layers.2, the residual stream after layer 2.",
}
"""Words that every page explains."""


def _known(_: Any, __: Any, parts: tuple[Part, ...]) -> None:
    for part in parts:
        if not isinstance(part, Part):
            raise AnalysisError(
                f"a report's parts are Table, Figure, Note, Examples or Entries, not {type(part).__name__}"
            )


@frozen(kw_only=True, repr=False)
class Report:
    """What an analysis found."""

    title: str
    parts: Sequence[Part] = field(converter=as_tuple, validator=_known)
    data: Mapping[str, Any] = field(factory=dict)
    """Everything that was measured, as JSON data for programs."""
    summary: str = ""
    """What was found, in one or two sentences."""
    frame: Table | None = None
    """Everything measured that is one row for each item, all of them: what `to_pandas` gives."""
    terms: Mapping[str, str] = field(factory=dict)
    """Words that its page explains to who does not know them, each in a sentence or two."""

    def __repr__(self) -> str:
        return f"Report({self.title!r}, {len(self.parts)} parts, data: {', '.join(map(str, self.data)) or 'none'})"

    @property
    def tables(self) -> dict[str, Table]:
        """The tables on the page by title."""
        return {part.title: part for part in self.parts if isinstance(part, Table)}

    def to_pandas(self) -> pandas.DataFrame:
        """The rows of `frame` as a pandas frame; `AnalysisError` where the analysis measures nothing by row."""
        if self.frame is None:
            raise AnalysisError(f"the report '{self.title}' has no frame; its tables are {', '.join(self.tables)}")
        return self.frame.to_pandas()

    def to_json(self) -> dict[str, Any]:
        """Plain data without the figures. Numbers that are not finite become null."""
        parts = [
            {"kind": type(part).__name__.lower(), **attrs.asdict(part)}
            for part in self.parts
            if not isinstance(part, Figure)
        ]
        plain: dict[str, Any] = finite(
            {"title": self.title, "summary": self.summary, "data": dict(self.data), "parts": parts}
        )
        return plain

    def to_html(self) -> str:
        """The report as a complete HTML page."""
        return page_of([self], title=self.title)

    def save(self, folder: str | Path) -> Path:
        """Write `report.html` and `report.json` into `folder`; returns the page's path."""
        return save_page([self], Path(folder), title=self.title)

    def _repr_html_(self) -> str:
        """The report as a notebook shows it."""
        return fragment_of(self)


def page_of(reports: Sequence[Report], *, title: str, head: Sequence[str] = ()) -> str:
    """Lay out several reports on one page under `title`, with paragraphs `head` above them.

    Before the reports the page explains the words that it uses: `TERMS`, and what reports add to them.
    """
    terms = TERMS | {word: text for report in reports for word, text in report.terms.items()}
    return environment().get_template("page.html").render(reports=reports, title=title, head=head, terms=terms)


def fragment_of(report: Report) -> str:
    """One report as a fragment of a page, with its own style."""
    return environment().get_template("fragment.html").render(report=report)


def save_page(reports: Sequence[Report], folder: Path, *, title: str, head: Sequence[str] = ()) -> Path:
    """Write several reports to `report.html` and `report.json` in `folder`; returns the page's path."""
    page = folder / "report.html"
    data = [report.to_json() for report in reports]
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_whole(page, page_of(reports, title=title, head=head))
    write_whole(folder / "report.json", json.dumps(data, indent=1, allow_nan=False))
    return page


@cache
def environment(package: str = "crosscoders.reports", folder: str = "templates") -> Environment:
    """Templates of a package, which may include those of reports, as `reports/...`. They escape everything."""
    own, shared = PackageLoader(package, folder), PackageLoader("crosscoders.reports")
    made = Environment(loader=ChoiceLoader([own, PrefixLoader({"reports": shared})]), autoescape=True, trim_blocks=True)
    made.globals["palette"] = palette
    made.filters["cell"] = cell
    made.filters["spans"] = _spans
    made.filters["kind"] = lambda part: type(part).__name__
    made.filters["svg"] = Markup  # `Figure` has made it safe
    return made


@cache
def palette() -> Markup:
    """The colours of all pages, for what is of the class `crosscoders`: a notebook's own parts stay as they are."""
    scoped = re.sub(r"(?m)^\.", ".crosscoders .", asset("palette.css")).replace(":root", ".crosscoders")
    return Markup(scoped)  # noqa: S704 - a file of ours


def cell(value: Any) -> str:
    """A value as tables of pages show it."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def _spans(context: Context, peak: float) -> list[tuple[str, float, float]]:
    """Each token with what is unseen made visible, the strength of its colour, and its activation."""
    return [
        (visible(token), max(0.0, value) / peak if peak > 0 else 0.0, value)
        for token, value in zip(context.tokens, context.activations, strict=True)
    ]
