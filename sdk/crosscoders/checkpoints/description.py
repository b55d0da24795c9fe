"""`config.json` of a saved crosscoder: what must be in it, checked before anything is made of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..crosscoder.sites import Site
from ..errors import CheckpointError, listed, shown
from ..reading import checksum, read_json

FORMAT = 1
CONFIG = "config.json"
KEYS = (
    "library",
    "format",
    "architecture",
    "loss",
    "gate",
    "sites",
    "models",
    "num_latents",
    "metrics",
    "recipe",
    "reading",
    "needs",
    "made_with",
    "origin",
    "checksum",
)


NEEDS = ("component", "plugin", "distribution", "version")
"""What an entry of `needs` says of a component of another distribution."""


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a saved crosscoder, in which every value is of the kind that it should be."""
    path = folder / CONFIG
    try:
        config = read_json(path, CheckpointError)
    except FileNotFoundError:
        raise CheckpointError(f"{folder} is not a saved crosscoder: it has no {CONFIG}") from None
    return checked_config(config, str(folder))


def checked_config(config: Any, where: str) -> dict[str, Any]:
    """The content of the `config.json` at `where`, in which every value is of the kind that it should be."""
    if not isinstance(config, dict) or config.get("library") != "crosscoders":
        raise CheckpointError(f"{CONFIG} of {where} does not describe a crosscoder of this library")
    if type(config.get("format")) is not int or config["format"] != FORMAT:
        raise CheckpointError(f"{where} has format {shown(config.get('format'))}; this version reads {FORMAT}")
    unknown = sorted(set(config) - set(KEYS))
    if unknown:
        raise CheckpointError(f"{CONFIG} of {where} has unknown keys {listed(unknown, ', ')}")
    for key in ("architecture", "loss", "gate", "models", "metrics", "recipe", "made_with"):
        expect(config, key, dict)
    expect({"reading": {}, **config}, "reading", dict)
    expect({"origin": {}, **config}, "origin", dict)
    for each in expect({"needs": [], **config}, "needs", list):
        if not isinstance(each, dict) or not all(isinstance(each.get(key), str) for key in NEEDS):
            raise CheckpointError(f"{CONFIG} has a malformed entry of 'needs': {shown(each)}")
    expect(config, "sites", list)
    expect(config, "num_latents", int)
    for key in ("name", "plugin", "distribution", "version"):
        expect(config["architecture"], key, str, "architecture")
    expect(config["architecture"], "config", dict, "architecture")
    expect(config["gate"], "name", str, "gate")
    for key in config["models"]:
        expect(config["models"], key, dict, "models")
    sites_of(config)
    return config


def check_unchanged(config: dict[str, Any], folder: Path) -> None:
    """Compare what decides on latents and reconstructions with the checksum that was saved with it, if there is one."""
    if "checksum" in config and config["checksum"] != description_checksum(config):
        raise CheckpointError(
            f"{folder / CONFIG} is damaged: architecture, gate or sites are not those of its checksum; if they were "
            "changed on purpose, remove the key 'checksum'"
        )


def description_checksum(config: Mapping[str, Any]) -> str:
    """The checksum of what in a config decides on latents and reconstructions."""
    architecture = {key: config["architecture"].get(key) for key in ("name", "plugin", "config")}
    return checksum([architecture, config["gate"], config["sites"], config["num_latents"]])


def sites_of(config: Mapping[str, Any]) -> tuple[Site, ...]:
    """The sites that a config lists."""
    return tuple(map(_site, config["sites"]))


def expect(table: Mapping[str, Any], key: str, kind: type, inside: str = "") -> Any:
    """The value at `key`, which must be of this very `kind`."""
    value = table.get(key)
    if type(value) is not kind:
        where = f"{inside}.{key}" if inside else key
        raise CheckpointError(f"{CONFIG} should have a {kind.__name__} at '{where}', not {shown(value)}")
    return value


def _site(entry: Any) -> Site:
    if not isinstance(entry, dict) or set(entry) != {"name", "width"} or type(entry["width"]) is not int:
        raise CheckpointError(f"{CONFIG} has a malformed site {shown(entry)}")
    try:
        return Site(entry["name"], entry["width"])
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{CONFIG} has a malformed site {shown(entry)}") from error


def by_provider(needs: Iterable[Mapping[str, str]]) -> list[tuple[tuple[str, str, str], str]]:
    """Entries of `needs` by distribution, version and plugin: the components of each, in one string."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for each in needs:
        groups.setdefault((each["distribution"], each["version"], each["plugin"]), []).append(each["component"])
    return [(provider, ", ".join(components)) for provider, components in groups.items()]


def number_at(table: Any, *keys: str) -> float | None:
    """A number somewhere in somebody else's tables, such as a metric of a site; None where there is none."""
    for key in keys:
        table = table.get(key) if isinstance(table, dict) else None
    return float(table) if isinstance(table, float) or (type(table) is int and abs(table) < 2**53) else None
