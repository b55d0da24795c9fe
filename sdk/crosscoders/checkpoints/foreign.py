"""Checkpoints of other libraries: which format they are, what they hold, a crosscoder of them, and files for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from attrs import frozen

from ..crosscoder.info import CheckpointInfo
from ..crosscoder.module import Crosscoder
from ..devices import find_device
from ..errors import CheckpointError, PluginError
from ..files import whole_folder
from ..plugins.registry import Registry, get_registry
from ..processes import ALONE, Processes
from .assemble import assemble, described, examples
from .blueprint import Answers, Blueprint
from .formats import CheckpointFormat
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
        crosscoder = assemble(
            blueprint, answers, registry=registry, device=find_device(str(device)), dtype=dtype, processes=processes
        )
        crosscoder.info = _info(self.source, blueprint, answers, crosscoder, registry or get_registry())
        return crosscoder


def find(source: Source, *, format: str = "", registry: Registry | None = None) -> Foreign:
    """The format of these files, the only one that claims them or the one called `format`.

    Where all files lie in one folder below the root, that folder is looked at.
    """
    registry = registry or get_registry()
    if format:
        return Foreign(source, _build(registry, format))
    faults: list[CheckpointError] = []
    while True:
        claims: list[CheckpointFormat] = []
        for name in registry.checkpoint_formats:
            candidate = _build(registry, name)
            try:
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
        if len(folders) != 1 or any("/" not in name and Path(name).suffix in READERS for name in source.files):
            break
        source = source.inside(folders[0])
    if faults:
        raise faults[0]
    raise NothingFitsError(_nothing_fits(source, registry))


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
        "config": _plain(blueprint.config),
        "dtype": str(blueprint.dtype).removeprefix("torch."),
        "answers": {key: _plain(value) for key, value in given.items() if value},
        "assumed": list(blueprint.assumed),
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


def _plain(value: Any) -> Any:
    """JSON data of a config that may be YAML."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def inspection_text(found: Foreign, name: str, answers: Answers | None = None) -> str:
    """What `crosscoders inspect` prints."""
    answers = answers or Answers()
    plan = found.inspect(answers)
    lines = [f"{name}: {plan.family}, format {plan.format}" + (f" ({plan.version})" if plan.version else "")]
    reads = {slot for group in plan.groups for slot in group.reads}
    writes = {slot for group in plan.groups for slot in group.writes}
    for number, slot in enumerate(plan.slots):
        role = " and ".join(word for word, names in (("read", reads), ("written", writes)) if slot.key in names)
        site = answers.site(slot, number)
        says = f"{role}: " if role else ""
        lines.append(f"slot {described(slot)}, width {slot.width}, {says}{site or 'which site is not said'}")
    sizes = {group.num_latents for group in plan.groups}
    each = (
        f" in {len(plan.groups)} groups" + (f" of {sizes.pop()}" if len(sizes) == 1 else "")
        if len(plan.groups) > 1
        else ""
    )
    if plan.refused:
        return "\n".join([*lines, f"cannot be held: {plan.refused}"])
    lines.append(
        f"{plan.num_latents} latents{each}, gate {plan.gate}" + (f", {len(plan.skip)} skip maps" if plan.skip else "")
    )
    lines.append(f"stored in {str(plan.dtype).removeprefix('torch.')}, {plan.size / 1e6:.1f} MB")
    lines += [f"model {key}: {model}" for key, model in plan.models.items()]
    lines += [f"assumed: {text}" for text in plan.assumed] + [f"warning: {text}" for text in plan.warnings]
    missing = [slot for number, slot in enumerate(plan.slots) if not answers.site(slot, number)]
    unknown = [s for s in plan.slots if s.key in plan.unknown_scales and answers.normalisation is None]
    lines += [f"to be answered: the site of slot {described(slot)}" for slot in missing]
    lines += [f"to be answered: {question.text}" for question in plan.questions]
    if unknown:
        lines.append(
            f"to be answered to encode: what activations were multiplied by at {', '.join(s.key for s in unknown)} "
            "(--normalisation none, a number for each, or estimate)"
        )
    options = [f"--site '{key}={site}'" for key, site in examples(missing).items()]
    options += [f"--answer {question.key}={question.example}" for question in plan.questions]
    options += ["--normalisation estimate"] if unknown else []
    lines.append(" ".join(["next: crosscoders convert", name, "FOLDER", *options]))
    return "\n".join(lines)


def inspection_data(found: Foreign, answers: Answers | None = None) -> dict[str, Any]:
    """The same as plain data."""
    answers = answers or Answers()
    plan = found.inspect(answers)
    return {
        "format": plan.format,
        "family": plan.family,
        "version": plan.version,
        "slots": [
            {"key": slot.key, "width": slot.width, "site": answers.site(slot, n), "what": slot.what}
            for n, slot in enumerate(plan.slots)
        ],
        "groups": [
            {"name": g.name, "num_latents": g.num_latents, "reads": list(g.reads), "writes": list(g.writes)}
            for g in plan.groups
        ],
        "skip": [list(block) for block in plan.skip],
        "gate": str(plan.gate),
        "dtype": str(plan.dtype).removeprefix("torch."),
        "bytes": plan.size,
        "models": dict(plan.models),
        "unknown_scales": list(plan.unknown_scales),
        "questions": [attrs.asdict(question) for question in plan.questions],
        "assumed": list(plan.assumed),
        "warnings": list(plan.warnings),
        "refused": plan.refused,
        "config": _plain(plan.config),
    }


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
