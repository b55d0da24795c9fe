"""A run's config written out as TOML that explains itself: what is set, and every other option as a comment.

Meanings and defaults are those that `crosscoders components` lists.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..plugins.kinds import component_command
from ..plugins.options import Option, options_of, toml
from ..plugins.registry import Registry, get_registry
from .config import OPTIONS, RunConfig

COLUMN = 40
"""Where the meanings of options begin."""
WIDTH = 120
"""Where they are cut."""
HEAD = f"""\
# A training run: crosscoders train FILE. One value can be replaced on the command line: --set training.lr=3e-4.
# Lines that begin with "# name =" are defaults: change one and take its # away.
# The full meaning of each option: {OPTIONS}, {component_command("KIND", "NAME")}.
"""


def written_config(data: Mapping[str, Any], *, registry: Registry | None = None) -> str:
    """The config of a run as commented TOML; `ConfigError` where `data` is not one."""
    registry = registry or get_registry()
    RunConfig.from_dict(data, registry=registry)
    options = options_of(RunConfig)
    chosen = {option.name: option.chooses for option in options if isinstance(data.get(option.name), Mapping)}
    tables = dict.fromkeys(option.name.rpartition(".")[0] for option in options if "." in option.name)
    lines = [HEAD, *_assignments([o for o in options if "." not in o.name and o.name not in chosen], data)]
    seen: set[tuple[str, str]] = set()
    for name, kind in chosen.items():
        several = name == "models"
        for key, table in data[name].items() if several else [(name, data[name])]:
            lines += ["", f"[{name}.{toml({key: 0}).split()[1]}]" if several else f"[{name}]"]
            lines += _component(kind, table, registry, seen)
    for name in tables:
        lines += ["", f"[{name}]"]
        inside = [o for o in options if o.name.rpartition(".")[0] == name]
        lines += _assignments(inside, _at(data, name))
    return "\n".join(lines) + "\n"


def _component(kind: str, table: Mapping[str, Any], registry: Registry, seen: set[tuple[str, str]]) -> Iterator[str]:
    """Its name and options; of a component that was written out before only what is set."""
    offer = registry.catalog(kind)[table["name"]]
    yield _line(f"name = {toml(table['name'])}", offer.spec.summary)
    options = options_of(offer.config_class())
    if (kind, table["name"]) in seen:
        options = [option for option in options if option.name in table]
    seen.add((kind, table["name"]))
    flat = [option for option in options if "." not in option.name]
    yield from _assignments(flat, table)
    # A table within is written as one whole, and only where it is set.
    for name in dict.fromkeys(option.name.partition(".")[0] for option in options if "." in option.name):
        if name in table:
            yield f"{name} = {toml(table[name])}"


def _assignments(options: list[Option], data: Mapping[str, Any]) -> Iterator[str]:
    for option in sorted(options, key=lambda option: option.name.rpartition(".")[2] not in data):
        name = option.name.rpartition(".")[2]
        if name in data:
            yield _line(f"{name} = {toml(data[name])}", option.first_sentence)
        else:
            default = f"<{option.kind}>" if option.default is None else toml(option.default)
            yield _line(f"# {name} = {default}", option.first_sentence)


def _line(assignment: str, meaning: str) -> str:
    line = f"{assignment:{COLUMN}s}  # {meaning}" if meaning else assignment
    return line if len(line) <= max(WIDTH, len(assignment)) else f"{line[:WIDTH].rpartition(' ')[0]} …"


def _at(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    for part in name.split("."):
        data = data.get(part, {})
    return {key: value for key, value in data.items() if not isinstance(value, Mapping)}
