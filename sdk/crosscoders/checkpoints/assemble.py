"""A crosscoder from a blueprint: made empty on its device, then filled block by block, some rows at a time."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..crosscoder.build import build_crosscoder
from ..crosscoder.gates import Gate, JumpReluGate, ReluGate, ScoreThresholdGate, TopKGate
from ..crosscoder.module import Crosscoder
from ..crosscoder.sites import Site
from ..errors import CheckpointError, ConfigError, SiteError, UnansweredError
from ..plugins.registry import Registry
from ..processes import ALONE, Processes
from .blueprint import Answers, Blueprint, Rows, Slot
from .stored import View

PIECE_ELEMENTS = 2**18
"""Rows are read in pieces of about this many numbers, so that next to nothing is held twice."""


@torch.no_grad()
def assemble(
    blueprint: Blueprint,
    answers: Answers,
    *,
    registry: Registry | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    processes: Processes = ALONE,
) -> Crosscoder:
    """Build the crosscoder. `CheckpointError` says what it cannot hold or what has to be answered first.

    With `processes` that share latents, each reads its own rows.
    """
    _require(blueprint, answers)
    sites = _sites(blueprint, answers)
    _check_shapes(blueprint)
    crosscoder = _empty(blueprint, sites, registry, device, dtype, processes)
    for number, group in enumerate(blueprint.groups):
        owned = crosscoder.wiring.owned(crosscoder.wiring.groups[number])
        layout = crosscoder.layout.subset(owned) if owned else None
        for slot, rows in group.writes.items():
            if layout is not None and sites[slot].name in owned:
                _fill(crosscoder.W_dec[number], layout.slices[sites[slot].name], rows, group.num_latents, processes)
    divisor_F = _norms(crosscoder, (1.0, 0.0)) if blueprint.unit_decoder else None
    for number, group in enumerate(blueprint.groups):
        latents = crosscoder.wiring.latent_slices[group.name]
        mine = _share(group.num_latents, processes)
        bias_F = torch.zeros(latents.stop - latents.start)
        if group.bias:
            bias_F = _sized(group.bias(), group.num_latents, f"the encoder bias of {group.name}")[mine]
        layout = crosscoder.layout.subset([sites[slot].name for slot in group.reads])
        for slot, rows in group.reads.items():
            subtract = blueprint.subtract.get(slot)
            off = _fill(
                crosscoder.W_enc[number],
                layout.slices[sites[slot].name],
                rows,
                group.num_latents,
                processes,
                _sized(subtract(), rows.shape[1], f"what is subtracted at {slot}") if subtract else None,
            )
            bias_F = bias_F - off
        if divisor_F is not None:
            crosscoder.W_enc[number].mul_(divisor_F[latents, None])
            crosscoder.W_dec[number].div_(divisor_F[latents, None].clamp_min(1e-30))
            bias_F = bias_F * divisor_F[latents].cpu()
        crosscoder.b_enc_F[latents] = bias_F.to(crosscoder.b_enc_F)
    for slot, vectors in blueprint.decoder_bias.items():
        columns = crosscoder.written.slices[sites[slot].name]
        width, what = columns.stop - columns.start, f"a decoder bias at {slot}"
        total = sum((_sized(vector(), width, what) for vector in vectors), torch.zeros(()))
        crosscoder.b_dec_X[columns] = total.to(crosscoder.b_dec_X)
    for W, rows in zip(crosscoder.W_skip, blueprint.skip.values(), strict=True):
        _fill(W, slice(0, W.shape[1]), rows, W.shape[0], ALONE)
    _set_scales(crosscoder, blueprint, answers, sites)
    crosscoder.gate = _gate(crosscoder, blueprint, processes).to(crosscoder.device)
    for text in [*blueprint.warnings, *assumptions(blueprint, answers), *_unasked(blueprint, answers)]:
        warnings.warn(text, UserWarning, stacklevel=2)
    return crosscoder.eval()


def _require(blueprint: Blueprint, answers: Answers) -> None:
    if blueprint.refused:
        raise CheckpointError(f"this {blueprint.family} ({blueprint.format}) cannot be held: {blueprint.refused}")
    keys = {key for i, slot in enumerate(blueprint.slots) for key in (slot.key, str(i), slot.site)}
    unknown = [key for key in answers.sites if key not in keys and "*" not in key]
    if unknown:
        names = ", ".join(slot.key for slot in blueprint.slots)
        raise CheckpointError(f"sites= names {', '.join(unknown)}, but the file has the slots {names}")
    missing = [slot for i, slot in enumerate(blueprint.slots) if not answers.site(slot, i)]
    if missing:
        given = examples(missing)
        example = ", ".join(f'"{key}": "{site}"' for key, site in given.items())
        options = " ".join(f"--site '{key}={site}'" for key, site in given.items())
        raise UnansweredError(
            f"the file does not say which sites its slots {', '.join(map(described, missing))} are; "
            f"say it by sites={{{example}}}, or {options}"
        )
    needed = [question for question in answers.open(blueprint.questions) if question.assumed is None]
    if needed:
        texts = "; ".join(question.text for question in needed)
        answered = [(question.key, question.example) for question in needed]
        options = " ".join(f"--answer {key}={example}" for key, example in answered)
        raise UnansweredError(f"{texts}; say it by answers={dict(answered)}, or {options}")


def assumptions(blueprint: Blueprint, answers: Answers) -> list[str]:
    """What was not said and not answered, and is taken as the library's own loader takes it."""
    return [
        f"{question.text}; taken as {question.assumed!r}, and answers={{'{question.key}': {question.example!r}}}, or "
        f"--answer {question.key}={question.example}, says otherwise"
        for question in answers.open(blueprint.questions)
        if question.assumed is not None
    ]


def _unasked(blueprint: Blueprint, answers: Answers) -> list[str]:
    asked = [question.key for question in blueprint.questions]
    unknown = [key for key in answers.others if key not in asked]
    what = f"asked are {', '.join(asked)}" if asked else "nothing is asked"
    return [f"answers= names {', '.join(unknown)}, but of this {blueprint.family} {what}"] if unknown else []


def examples(slots: Sequence[Slot]) -> dict[str, str]:
    """An answer for each slot, no two alike; several layers as one with a star where that says the same."""
    found: dict[str, str] = {}
    for slot in slots:
        number = slot.key.rpartition(".")[2]
        starred = slot.key[: -len(number)] + "*", slot.example.replace(f"layers.{number}.", "layers.*.")
        if len(slots) > 2 and number.isdigit() and number != slot.key and "*" in starred[1]:
            found |= dict([starred])
        else:
            taken = slot.example in found.values()
            found[slot.key] = f"model/{re.sub('[^A-Za-z0-9_.-]', '-', slot.key)}" if taken else slot.example
    return found


def described(slot: Slot) -> str:
    """A slot with what is known of it, for messages."""
    return f"{slot.key} ({slot.what})" if slot.what else slot.key


def _sites(blueprint: Blueprint, answers: Answers) -> dict[str, Site]:
    try:
        return {slot.key: Site(answers.site(slot, i), slot.width) for i, slot in enumerate(blueprint.slots)}
    except ValueError as error:
        raise CheckpointError(f"a site must be named MODEL/POINT, such as model/layers.13: {error.args[0]}") from error


def _check_shapes(blueprint: Blueprint) -> None:
    """Before anything is read or allocated."""
    gate, sizes = blueprint.gate, [group.num_latents for group in blueprint.groups]
    if gate.name == "topk" and gate.k > (min(sizes) if gate.per_group else sum(sizes)):
        raise CheckpointError(f"k is {gate.k}, and there are {blueprint.num_latents} latents in {len(sizes)} groups")
    widths = {slot.key: slot.width for slot in blueprint.slots}
    blocks: list[tuple[Rows, tuple[int, int]]] = []
    for group in blueprint.groups:
        blocks += [(rows, (group.num_latents, widths[slot])) for slot, rows in group.reads.items()]
        blocks += [(rows, (group.num_latents, widths[slot])) for slot, rows in group.writes.items()]
    blocks += [(rows, (widths[written], widths[read])) for (read, written), rows in blueprint.skip.items()]
    for rows, shape in blocks:
        if isinstance(rows, View):
            rows.check_type()
        if rows.shape != shape:
            label = getattr(rows, "label", "a block of the file")
            raise CheckpointError(f"{label} has a part of shape {rows.shape}, where {shape} is needed")


def _empty(
    blueprint: Blueprint,
    sites: dict[str, Site],
    registry: Registry | None,
    device: str | torch.device,
    dtype: torch.dtype,
    processes: Processes,
) -> Crosscoder:
    def names(slots: Any) -> list[str]:
        return [sites[slot].name for slot in slots]

    architecture = {
        "name": "explicit",
        "groups": [
            {"name": g.name, "num_latents": g.num_latents, "reads": names(g.reads), "writes": names(g.writes)}
            for g in blueprint.groups
        ],
        "skip": [names(block) for block in blueprint.skip],
        "ties": [[[group, sites[slot].name] for group, slot in tie] for tie in blueprint.ties],
    }
    try:
        with torch.device("meta"):
            crosscoder = build_crosscoder(architecture, tuple(sites.values()), registry=registry, processes=processes)
    except (ConfigError, SiteError) as error:
        raise CheckpointError(f"the file's wiring is impossible with these sites: {error}") from error
    for parameter in crosscoder.parameters():
        parameter.data = parameter.data.to(dtype)  # scales and thresholds stay in fp32
    crosscoder.to_empty(device=device)
    for parameter in crosscoder.parameters():
        parameter.zero_()
    crosscoder.normaliser.scale_S.fill_(1.0)
    return crosscoder


def _sized(vector: Tensor, size: int, what: str) -> Tensor:
    if vector.shape != (size,):
        raise CheckpointError(f"{what} has shape {tuple(vector.shape)} in the file, where {size} numbers are needed")
    return vector


def _share(count: int, processes: Processes) -> slice:
    """This process's latents of a group."""
    share = count // processes.num_shards
    return slice(processes.shard * share, (processes.shard + 1) * share)


def _fill(
    target: Tensor,
    columns: slice,
    source: Rows,
    count: int,
    processes: Processes,
    subtract: Tensor | None = None,
) -> Tensor:
    """Copy a block in; what it makes of the vector `subtract` comes back."""
    mine = _share(count, processes)
    off = torch.zeros(mine.stop - mine.start)
    step = max(1, PIECE_ELEMENTS // max(1, source.shape[1]))
    for start in range(mine.start, mine.stop, step):
        stop = min(start + step, mine.stop)
        piece = source.rows(start, stop)
        target[start - mine.start : stop - mine.start, columns] = piece.to(target)
        if subtract is not None:
            off[start - mine.start : stop - mine.start] = piece @ subtract
    return off


def _norms(crosscoder: Crosscoder, weights: tuple[float, float]) -> Tensor:
    norms_FS = crosscoder.decoder_norms().float()
    norm_F: Tensor = weights[0] * norms_FS.norm(dim=1) + weights[1] * norms_FS.sum(dim=1)
    return norm_F


def _set_scales(crosscoder: Crosscoder, blueprint: Blueprint, answers: Answers, sites: dict[str, Site]) -> None:
    normaliser = crosscoder.normaliser
    normaliser.set_scales({sites[slot].name: scale for slot, scale in blueprint.scales.items()})
    if isinstance(answers.normalisation, dict):
        known = set(blueprint.unknown_scales) | {sites[slot].name for slot in blueprint.unknown_scales}
        surplus = [key for key in answers.normalisation if key not in known]
        if surplus:
            which = ", ".join(blueprint.unknown_scales) or "none: the file says them all"
            raise CheckpointError(f"normalisation= names {', '.join(surplus)}; unknown are the scales of {which}")
    for slot in blueprint.slots:
        if slot.key in blueprint.unknown_scales:
            scale = answers.scale(slot, sites[slot.key].name)
            if scale is None:
                normaliser.set_unknown([sites[slot.key].name])
            else:
                normaliser.set_scales({sites[slot.key].name: scale})


def _gate(crosscoder: Crosscoder, blueprint: Blueprint, processes: Processes) -> Gate:
    plan = blueprint.gate
    if plan.name == "score_threshold":
        return ScoreThresholdGate(plan.score_threshold)
    if plan.name == "topk":
        sizes = [group.num_latents for group in crosscoder.wiring.groups]
        return TopKGate(plan.k, by=plan.by, group_sizes=sizes if plan.per_group and len(sizes) > 1 else ())
    if plan.name == "relu":
        return ReluGate()
    gate = JumpReluGate(crosscoder.num_latents)
    divisor_F = _norms(crosscoder, plan.divisor).cpu() if any(plan.divisor) else None
    largest = torch.finfo(torch.float32).max
    for group in blueprint.groups:
        latents = crosscoder.wiring.latent_slices[group.name]
        if group.threshold is None:
            continue
        threshold_F = _sized(group.threshold(), group.num_latents, f"the thresholds of {group.name}")
        threshold_F = threshold_F[_share(group.num_latents, processes)]
        if divisor_F is not None:
            # A latent that writes nothing never has a score above a threshold.
            threshold_F = torch.where(divisor_F[latents] > 0, threshold_F / divisor_F[latents], largest)
        gate.threshold_F[latents] = threshold_F.clamp_max(largest)
    return gate
