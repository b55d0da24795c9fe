"""Patching between models: latents of one model's activations put into another's (Minder et al. 2025, §4).

At the points that both models write, x^target + Σ_{j∈S} f_j (d_j^source − d_j^target) takes the place of the
activations and the layers above go on. With all latents and the rest of the difference, which is that of the two
errors, biases and skips, it is x^source.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from attrs import field, frozen
from torch import Tensor

from ..crosscoder.latents import Latents
from ..errors import AnalysisError
from ..models.adapter import Edit
from ..models.capabilities import generates, lays_out_chats, vocabulary_of
from ..models.predictions import pieces, puts
from .act import Acting
from .effects import Effect, clean_of, effect_of
from .inputs import Input
from .passes import StudyBatch

if TYPE_CHECKING:
    from .study import Study


@frozen
class Arm:
    """What is patched: some latents, or all of them (None), with or without the rest of the difference."""

    latents: Sequence[int] | None = None
    with_error: bool = False


@frozen(eq=False)
class Patching:
    """Two models of a study, the points where one is patched into the other, and whose layers go on above."""

    study: Study
    source: str
    target: str
    upper: str
    points: tuple[str, ...] = field()

    @classmethod
    def of(cls, study: Study, source: str, target: str, upper: str | None = None) -> Patching:
        """Between two models of one vocabulary that write some point at one width; `upper` is the source if not said.

        `AnalysisError` says what does not fit.
        """
        crosscoder, ours, theirs = study.crosscoder, study.adapter(source), study.adapter(target)
        names = crosscoder.written.names
        widths = {site.name: site.width for site in crosscoder.sites}
        points = [s.point for s in crosscoder.written.sites if s.model == source and f"{target}/{s.point}" in names]
        points = [p for p in points if widths[f"{source}/{p}"] == widths[f"{target}/{p}"]]
        if not points:
            raise AnalysisError(
                f"a patch needs written sites at one point of {source} and {target}, of equal width; there are "
                f"{', '.join(names)}"
            )
        upper = upper or source
        if vocabulary_of(ours) != vocabulary_of(theirs):
            raise AnalysisError(f"{source} and {target} have different vocabularies, so tokens cannot be patched")
        if upper not in (source, target):
            raise AnalysisError(f"the layers above are those of {source} or {target}, not of '{upper}'")
        return cls(study, source, target, upper, tuple(points))

    def values(self, batch: StudyBatch, arms: Mapping[str, Arm]) -> dict[str, dict[str, Tensor]]:
        """By arm and point, what takes the place of the activations, (B, T, D); the target's own where masked."""
        keep_BT, found = batch.keep_BT, batch.latents
        places = keep_BT.nonzero(as_tuple=True)
        own = self.study.crosscoder.layout.unpack(batch.x_BTX)
        rest: dict[str, Tensor] = {}
        if any(arm.with_error for arm in arms.values()):
            whole = self.steps(found)
            rest = {
                point: (own[f"{self.source}/{point}"] - own[f"{self.target}/{point}"])[keep_BT] - whole[point]
                for point in self.points
            }
        values: dict[str, dict[str, Tensor]] = {}
        for name, arm in arms.items():
            values[name] = {}
            for point, step_BD in self.steps(found, arm.latents).items():
                target_BTD = own[f"{self.target}/{point}"]
                moved_BD = target_BTD[keep_BT] + (step_BD + rest[point] if arm.with_error else step_BD)
                values[name][point] = target_BTD.index_put(places, moved_BD)
        return values

    def turn(self, latents: Sequence[int]) -> Tensor:
        """d_j^source − d_j^target in raw units, all points side by side, (K, D of all points)."""
        crosscoder = self.study.crosscoder
        parts = [
            crosscoder.direction(latents, f"{self.source}/{point}")
            - crosscoder.direction(latents, f"{self.target}/{point}")
            for point in self.points
        ]
        return torch.cat(parts, dim=1)

    def steps(self, latents: Latents, chosen: Sequence[int] | None = None) -> dict[str, Tensor]:
        """Σ_j f_j (d_j^source − d_j^target) over the chosen latents, or all, in raw units at each point, (B, D)."""
        crosscoder = self.study.crosscoder
        if chosen is not None:
            chosen_F = torch.zeros(crosscoder.num_latents, dtype=torch.bool, device=crosscoder.device)
            chosen_F[list(chosen)] = True
            latents = latents.select(chosen_F[latents.latent_N])
        blocks_BX = crosscoder.decode_without_bias(latents)
        written = crosscoder.split(crosscoder.normaliser.undo(blocks_BX, crosscoder.written.names))
        return {point: written[f"{self.source}/{point}"] - written[f"{self.target}/{point}"] for point in self.points}


@frozen(eq=False)
class Amplified(Acting):
    """The source model with x + α Σ_{j∈S} f_j (d_j^source − d_j^target) in the place of its activations x.

    α = 0 is the source itself; α = −1 with all latents takes away all of the difference that latents describe.
    """

    patching: Patching = field(repr=False)
    alpha: float
    latents: Sequence[int] | None = None

    @property
    def study(self) -> Study:
        """The study whose crosscoder and models these are."""
        return self.patching.study

    @property
    def model(self) -> str:
        """The model that runs."""
        return self.patching.source

    @property
    def points(self) -> tuple[str, ...]:
        """Where the activations move."""
        return self.patching.points

    def moved(self, x_BTX: Tensor, keep_BT: Tensor) -> dict[str, Tensor]:
        """By point: how far the activations of all sites `x_BTX` move, (B, T, D); not at all where not kept."""
        latents = self.study.crosscoder.encode(x_BTX[keep_BT])
        places = keep_BT.nonzero(as_tuple=True)
        found = {}
        for point, step_BD in self.patching.steps(latents, self.latents).items():
            zero_BTD = step_BD.new_zeros(*keep_BT.shape, step_BD.shape[1])
            found[point] = zero_BTD.index_put(places, self.alpha * step_BD)
        return found


@frozen(eq=False)
class PatchedTokens:
    """Some tokens whose next one is known, and how far each arm's predictions are from the source's there."""

    place_N2: Tensor
    """Row within the whole pass over the tokens, and position."""
    next_in_answer_N: Tensor
    """How many tokens of an assistant's answer come before the next token; −1 where that is not in one."""
    kl: Mapping[str, Tensor]
    """By arm: KL(source ‖ patched) of the next token's distribution, nats, (N,)."""


@torch.no_grad()
def patched(patching: Patching, arms: Mapping[str, Arm]) -> Iterator[PatchedTokens]:
    """Run every arm on the study's tokens, a few rows at a time."""
    study = patching.study
    adapter, source = study.adapter(patching.upper), study.adapter(patching.source)
    opening: Sequence[int] = ()
    if lays_out_chats(source):
        writing = generates(source, "patching by places in answers")
        opening = answer_opening(writing.prompt("a"), writing.prompt("b c"))
    for batch in study.batches():
        values = patching.values(batch, arms)
        in_answer_BT = places_in_answers(batch.tokens.ids, batch.tokens.special, opening).cpu()
        for piece in pieces(adapter, patching.upper, batch.tokens):
            clean_NV = piece.clean_NV if adapter is source else clean_of(piece, source)
            predicts_BT = piece.predicts_BT.cpu()
            place_N2 = predicts_BT.nonzero()
            place_N2[:, 0] += piece.rows.start
            in_answer_N = in_answer_BT[place_N2[:, 0], place_N2[:, 1] + 1]
            place_N2[:, 0] += batch.first_sequence
            kl = {}
            for name, by_point in values.items():
                logp_NV = piece.changed(puts(patching.upper, batch.tokens, piece.rows, by_point, batch.keep_BT))
                kl[name] = piece.divergence(logp_NV, clean_NV).cpu()
            yield PatchedTokens(place_N2, in_answer_N, kl)


def answer_opening(first: Sequence[int], second: Sequence[int]) -> tuple[int, ...]:
    """The tokens with which the layouts of two questions both end: what a chat template puts before an answer."""
    count = 0
    while count < min(len(first), len(second)) and first[-1 - count] == second[-1 - count]:
        count += 1
    return tuple(first[len(first) - count :])


def places_in_answers(ids_BT: Tensor, special_BT: Tensor, opening: Sequence[int]) -> Tensor:
    """For each token its number in the answer it is part of, from 0, and −1 outside of answers, (B, T).

    An answer begins after `opening` and ends with the next special token, which still counts as part of it.
    """
    places_BT = torch.full_like(ids_BT, -1)
    length = len(opening)
    if not length or ids_BT.shape[1] <= length:
        return places_BT
    windows = ids_BT.unfold(1, length, 1) == torch.tensor(opening, device=ids_BT.device)
    for row, start in windows.all(dim=2).nonzero().tolist():
        first = start + length
        ends = special_BT[row, first:].nonzero()
        stop = first + int(ends[0, 0]) + 1 if len(ends) else ids_BT.shape[1]
        places_BT[row, first:stop] = torch.arange(len(places_BT[row, first:stop]), device=ids_BT.device)
    return places_BT


def patch_effect(patching: Patching, arm: Arm, given: Input | None) -> Effect:
    """See `Study.patch`."""
    study, source, upper = patching.study, patching.source, patching.upper
    arms = {"with": arm, "without": Arm(latents=())}

    def edits(batch: StudyBatch, rows: slice) -> list[list[Edit]]:
        if rows.start == 0:
            values.update(patching.values(batch, arms))
        return [puts(upper, batch.tokens, rows, values[name], batch.keep_BT) for name in arms]

    values: dict[str, dict[str, Tensor]] = {}
    count = study.crosscoder.num_latents if arm.latents is None else len(arm.latents)
    title = f"{count} latents from {source} into {patching.target}, layers above of {upper}"
    batches = study.batches() if given is None else [study.batch(given)]
    reference = None if upper == source else (source, study.adapter(source))
    return effect_of(title, batches, (upper, study.adapter(upper)), edits, reference=reference)
