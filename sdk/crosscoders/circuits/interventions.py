"""Interventions: latents changed at positions of a prompt, and what becomes of everything after them.

A latent's value f made f′ moves every point that it writes by (f′ − f)·d. What else may change is chosen:

* `direct`: nothing. Patterns, denominators and MLP outputs are those of the clean run, skip maps alone carry changes.
  This is what the edges of a graph say, exactly.
* `constrained`: outputs of some layers are those of the clean run plus what the changed latents write there; norms, and
  all other layers, follow.
* `iterative`: all latents are encoded anew from changed activations, in every layer, before they are changed; MLPs
  follow as they do in the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, get_args

import torch
from attrs import frozen
from torch import Tensor

from ..analysis.inputs import Input
from ..crosscoder.edits import Change, parsed
from ..crosscoder.latents import Latents
from ..devices import precise
from ..errors import AnalysisError, shown
from ..models.linear import FINAL
from ..reports import Table
from .latent_sets import LatentSet, layer_of
from .replacement import Explaining, ReplacementModel, Skip

Mode = Literal["direct", "constrained", "iterative"]
Positions = int | slice | Sequence[int] | None


@frozen
class Intervention:
    """A change of one latent, `"ablate"`, `("scale", a)`, `("clamp", a)` or `("add", a)`, at some positions.

    Latents are numbered within the layer that they read, as in graphs. None stands for all positions that count.
    """

    layer: int
    index: int
    change: Change
    positions: Positions = None


@frozen(eq=False)
class Intervened:
    """A prompt after interventions."""

    logits_TV: Tensor
    clean_TV: Tensor
    """Logits of the same run without interventions: the model's own."""
    values: Mapping[str, Tensor]
    """Activations (T, D) at what latents read and at `final`, after the interventions."""
    clean: Mapping[str, Tensor]
    """The same before."""
    latents: Sequence[Latents]
    """Latents of each set of the model, as encoded from `values`, before they are changed themselves."""

    def moved(self, position: int = -1, count: int = 10) -> Table:
        """The tokens whose log-probability changed most at a position: `id`, `before`, `after`, `change`, nats."""
        before_V, after_V = (precise(logits[position]).log_softmax(dim=0) for logits in (self.clean_TV, self.logits_TV))
        change_V = after_V - before_V
        ids = change_V.abs().topk(min(count, len(change_V))).indices.tolist()
        rows = [(i, float(before_V[i]), float(after_V[i]), float(change_V[i])) for i in ids]
        return Table(title="Log-probabilities changed", columns=("id", "before", "after", "change"), rows=rows)


def intervene(
    model: ReplacementModel,
    prompt: Input,
    interventions: Iterable[Intervention],
    *,
    mode: Mode = "iterative",
    layers: Iterable[int] | None = None,
    hold_attention: bool = True,
    skip_positions: Skip = None,
) -> Intervened:
    """Run one prompt with latents changed.

    `layers` are those that `constrained` constrains. Where the mode is not `direct`, which holds everything,
    `hold_attention` says whether attention patterns are those of the clean run. `LatentError` and `AnalysisError`
    for latents and positions that are not there.
    """
    if mode not in get_args(Mode):
        raise AnalysisError(f"mode should be one of {', '.join(get_args(Mode))}, not {shown(mode)}")
    if (layers is None) == (mode == "constrained"):
        raise AnalysisError("layers are given with mode='constrained', and with that only")
    tokens = model.row(prompt)
    keep_T = model.kept(tokens, skip_positions)
    changes = Changes(model, list(interventions), keep_T, first=0, length=len(keep_T))
    held = model.adapter.hold(tokens)
    clean = Explaining(model, keep_T)
    clean_TV = held.logits(clean.edits(lambda _, found: found), attention=False, norms=False)[0]
    fixed = set(model.cuts)
    if mode == "constrained":
        wanted = set(layers or ())
        outside = sorted(layer for layer in wanted if not 0 <= layer < model.num_layers)
        if outside:
            raise AnalysisError(f"there is no layer {outside[0]}; the model has {model.num_layers}")
        fixed = {cut for cut in model.cuts if layer_of(cut) in wanted}
    changed = Explaining(model, keep_T)
    before = dict(zip(map(id, model.sets), clean.latents, strict=True))

    def change(one: LatentSet, latents: Latents) -> Latents:
        return changes.of(one, latents if mode == "iterative" else before[id(one)])

    def put(point: str, found: Tensor) -> Tensor:
        if mode == "iterative":
            return found + changed.added(point)
        if point not in fixed:
            return found
        return clean.found[point] + changed.skipped(point) - clean.skipped(point) + changed.added(point)

    direct = mode == "direct"
    logits_TV = held.logits(changed.edits(put, change), attention=direct or hold_attention, norms=direct)[0]
    points = [*{one.read for one in model.sets}, FINAL]
    return Intervened(
        logits_TV,
        clean_TV,
        {point: changed.found[point] for point in points},
        {point: clean.found[point] for point in points},
        changed.latents,
    )


class Changes:
    """Interventions by set, over a window of positions: `first` is the number of the window's first one.

    Negative positions count from the end of the prompt, `length` tokens long. A slice without an end goes on after it.
    """

    def __init__(
        self, model: ReplacementModel, interventions: Sequence[Intervention], keep_T: Tensor, *, first: int, length: int
    ) -> None:
        self.by_set: dict[int, list[tuple[int, str, float, Tensor]]] = {}
        for one in interventions:
            latent_set, local = model.set_of(one.layer, one.index)
            [(kind, value)] = parsed({local: one.change}, latent_set.size).values()
            at = _positions(one.positions, keep_T, first, length)
            self.by_set.setdefault(id(latent_set), []).append((local, kind, value, at))

    def of(self, one: LatentSet, latents: Latents) -> Latents:
        """How much the latents of a set change, from these values, as latents."""
        own = self.by_set.get(id(one), ())
        old: dict[int, Tensor] = {}
        new: dict[int, Tensor] = {}
        for local, kind, value, at in own:
            if local not in old:
                mine = latents.latent_N == local
                old[local] = latents.value_N.new_zeros(latents.num_tokens)
                old[local][latents.token_N[mine]] = latents.value_N[mine]
                new[local] = old[local].clone()
            now = new[local][at]
            new[local][at] = value * now if kind == "scale" else value + (now if kind == "add" else 0 * now)
        step_TF = latents.value_N.new_zeros(latents.num_tokens, one.size)
        for local, f_T in old.items():
            step_TF[:, local] = new[local] - f_T
        return Latents.from_mask(step_TF != 0, step_TF)


def _positions(asked: Positions, keep_T: Tensor, first: int, length: int) -> Tensor:
    """Positions within the window; `AnalysisError` for one that is not in the prompt or does not count."""
    if asked is None:
        return keep_T.nonzero().squeeze(1)
    window = range(first, first + len(keep_T))
    if isinstance(asked, slice):
        start, stop = (None if end is None else end + length if end < 0 else end for end in (asked.start, asked.stop))
        chosen = range(start or 0, window.stop if stop is None else stop, asked.step or 1)
        numbers = [place for place in window if place in chosen and bool(keep_T[place - first])]
    else:
        numbers = [asked] if isinstance(asked, int) else list(asked)
        for place in numbers:
            if not -length <= place < length:
                raise AnalysisError(f"there is no position {place} in a prompt of {length} tokens")
        numbers = [place % length for place in numbers if place % length in window]
        for place in numbers:
            if not bool(keep_T[place - first]):
                raise AnalysisError(f"latents do not count at position {place}, which skip_positions leaves out")
    return torch.tensor([place - first for place in numbers], dtype=torch.int64, device=keep_T.device)
