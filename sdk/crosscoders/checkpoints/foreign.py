"""Checkpoints of other libraries: which format they are, what they hold, a crosscoder of them, and files for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import torch
from attrs import frozen

from ..crosscoder.info import CheckpointInfo
from ..crosscoder.module import Crosscoder
from ..devices import find_device
from ..errors import CheckpointError, CrosscodersError, PluginError
from ..files import whole_folder
from ..plugins.registry import Registry, get_registry
from ..processes import ALONE, Processes
from .assemble import assemble, assumptions
from .blueprint import Answers, Blueprint
from .formats import CheckpointFormat
from .inspection import plain
from .source import READERS, Source


class NothingFitsError(CheckpointError):
    """No format claims the files."""


@frozen(eq=False)
class Foreign:
    """Files of a known format."""

    source: Source
    format: CheckpointFormat

    def inspect(self, answers: Answers | None = None) -> Blueprint:
        """What they hold, from headers and configs."""
        with _named_faults(self.source, self.format):
            return self.format.inspect(self.source, answers or Answers())

    def read(
        self,
        answers: Answers | None = None,
        *,
        registry: Registry | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        processes: Processes = ALONE,
    ) -> Crosscoder:
        """The crosscoder, with a record of where it came from."""
        answers = answers or Answers()
        blueprint = self.inspect(answers)
        place = find_device(str(device))
        with _named_faults(self.source, self.format):
            crosscoder = assemble(blueprint, answers, registry=registry, device=place, dtype=dtype, processes=processes)
        crosscoder.info = _info(self.source, blueprint, answers, crosscoder, registry or get_registry())
        return crosscoder


def find(source: Source, *, format: str = "", registry: Registry | None = None) -> Foreign:
    """The format of these files, the only one that claims them or the one called `format`.

    Where all files lie in one folder below the root, that folder is looked at.
    """
    registry = registry or get_registry()
    if format:
        return Foreign(_holding(source), _build(registry, format))
    faults: list[CheckpointError] = []
    while True:
        claims: list[CheckpointFormat] = []
        for name in registry.checkpoint_formats:
            candidate = _build(registry, name)
            try:
                with _named_faults(source, candidate):
                    if candidate.detect(source):
                        claims.append(candidate)
            except CheckpointError as error:
                faults.append(error)
        if len(claims) == 1:
            return Foreign(source, claims[0])
        if claims:
            names = ", ".join(f"'{claim.name}'" for claim in claims)
            raise CheckpointError(f"{source.name} fits the formats {names}; say which by format=")
        folders = source.folders()
        if len(folders) != 1 or _has_weights(source):
            break
        source = source.inside(folders[0])
    if faults:
        raise faults[0]
    raise NothingFitsError(_nothing_fits(source, registry))


def _has_weights(source: Source) -> bool:
    return any("/" not in name and Path(name).suffix in READERS for name in source.files)


def _holding(source: Source) -> Source:
    """The files seen from the folder that holds them, where there is only one way to go down.

    Formats that keep a folder for each layer have several, and are left where they are; folders of folders are not.
    """
    while len(source.folders()) == 1 and not _has_weights(source):
        source = source.inside(source.folders()[0])
    deepest = max((name.count("/") for name in source.files if Path(name).suffix in READERS), default=0)
    if deepest > 1 and not _has_weights(source):
        raise CheckpointError(f"{source.name} holds many checkpoints; {source.folders_text()}: name one by subfolder=")
    return source


@contextmanager
def _named_faults(source: Source, format: CheckpointFormat) -> Iterator[None]:
    """Whatever a format trips over in strange files is a fault of these files, or of the format; both are named."""
    try:
        yield
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, CrosscodersError):
            raise
        raise CheckpointError(
            f"the format '{format.name}' cannot make sense of {source.name}: {type(error).__name__}: {error}"
        ) from error


def _nothing_fits(source: Source, registry: Registry) -> str:
    seen = ", ".join(source.files[:8]) + (" …" if len(source.files) > 8 else "") if source.files else "no files"
    known = ", ".join(sorted(registry.checkpoint_formats)) or "none"
    hint = f"; {source.folders_text()}: name one by subfolder=" if source.folders() else ""
    return f"{source.name} is not a crosscoder of this library or of a known format ({known}); it has {seen}{hint}"


def _build(registry: Registry, name: str) -> CheckpointFormat:
    spec = registry.checkpoint_formats[name].spec
    build: Callable[..., Any] = spec.build.load()
    made = build(spec.config.load()())
    if not isinstance(made, CheckpointFormat):
        raise PluginError(f"the checkpoint format '{name}' is a {type(made).__name__}, not a CheckpointFormat")
    return made


def _info(
    source: Source, blueprint: Blueprint, answers: Answers, crosscoder: Crosscoder, registry: Registry
) -> CheckpointInfo:
    offer = registry.architectures["explicit"]
    wiring = crosscoder.wiring
    return CheckpointInfo(
        architecture={
            "name": "explicit",
            "plugin": offer.provider.plugin,
            "distribution": offer.provider.distribution,
            "version": offer.provider.version,
            "config": {
                "groups": [
                    {"name": g.name, "num_latents": g.num_latents, "reads": list(g.reads), "writes": list(g.writes)}
                    for g in wiring.groups
                ],
                "skip": [list(block) for block in wiring.skip],
                "ties": [[list(block) for block in tie] for tie in wiring.ties],
                "nesting": [],
            },
        },
        models={key: {"model": model, "revision": None} for key, model in blueprint.models.items()},
        origin=_origin(source, blueprint, answers, registry),
    )


def _origin(source: Source, blueprint: Blueprint, answers: Answers, registry: Registry) -> dict[str, Any]:
    provider = registry.checkpoint_formats[blueprint.format].provider
    given = attrs.asdict(answers)
    return {
        "format": blueprint.format,
        "version": blueprint.version,
        "read_by": {"plugin": provider.plugin, "distribution": provider.distribution, "version": provider.version},
        **source.record,
        "sha256": source.digests(),
        "config": plain(blueprint.config),
        "dtype": str(blueprint.dtype).removeprefix("torch."),
        "answers": {key: plain(value) for key, value in given.items() if value},
        "assumed": [*blueprint.assumed, *assumptions(blueprint, answers)],
        "changes": [*blueprint.changes, *_changes(blueprint), *source.notes],
        "warnings": list(blueprint.warnings),
    }


def _changes(blueprint: Blueprint) -> list[str]:
    changes = []
    if blueprint.dtype != torch.float32:
        changes.append(f"weights stored in {str(blueprint.dtype).removeprefix('torch.')} were read to float32")
    if blueprint.subtract:
        changes.append("what is subtracted before encoding was folded into the encoder bias")
    if any(blueprint.gate.divisor):
        changes.append("thresholds on scaled latents were divided by decoder norms")
    if blueprint.unit_decoder:
        changes.append("latents were rescaled to decoder rows of length 1")
    return changes


def check_export(crosscoder: Crosscoder, format: str, *, registry: Registry | None = None) -> list[str]:
    """What writing `crosscoder` in another library's format would change; `CheckpointError` if it cannot be held."""
    return _build(registry or get_registry(), format).check(crosscoder)


def export(crosscoder: Crosscoder, folder: str | Path, format: str, *, registry: Registry | None = None) -> list[str]:
    """Write `crosscoder` in another library's format into a new folder; returns what was changed on the way."""
    made = _build(registry or get_registry(), format)
    changed = made.check(crosscoder)
    with whole_folder(Path(folder)) as partial:
        made.write(crosscoder, partial)
    return changed
