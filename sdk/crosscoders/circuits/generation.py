"""Text written under interventions, with the model's key-value cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..analysis.generate import generate
from ..analysis.inputs import Input
from ..crosscoder.latents import Latents
from ..models.adapter import Edit
from ..models.linear import FINAL
from .interventions import Changes, Intervention
from .latent_sets import LatentSet
from .replacement import Explaining, ReplacementModel, Skip


def generate_intervened(
    model: ReplacementModel,
    prompt: Input,
    interventions: Sequence[Intervention],
    *,
    max_new_tokens: int = 40,
    temperature: float = 0.0,
    seed: int = 0,
    skip_positions: Skip = None,
) -> str:
    """What the model writes after a prompt while latents are changed (as by the mode `iterative`, nothing held).

    Positions are those of the prompt. Changes at all positions, or at a slice without an end, go on at tokens that are
    written. `temperature` 0 takes the most likely token.
    """
    tokens = model.row(prompt)
    decoder = _Decoder(model, list(interventions), model.kept(tokens, skip_positions))
    [answer] = generate(
        decoder,
        [tokens.ids[0].tolist()],
        ends=model.adapter.end_tokens(),
        device=tokens.ids.device,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
    )
    return model.adapter.text(answer)


class _Decoder:
    """A decoder whose edits look at the tokens that are read at the moment."""

    def __init__(self, model: ReplacementModel, interventions: Sequence[Intervention], keep_T: Tensor) -> None:
        self.model, self.interventions, self.keep_T = model, interventions, keep_T
        self.seen = 0
        self._now: dict[str, Edit] = {}
        reads = {one.read for one in model.sets} | {read for maps in model.skips.values() for read in maps}
        points = sorted({*reads, *model.cuts, FINAL}, key=model.points.index)
        self._decoder = model.adapter.decoder([Edit(point, self._at(point)) for point in points])

    def advance(self, ids: Tensor, attention: Tensor) -> Tensor:
        """Read the next tokens of the row."""
        length = len(self.keep_T)
        # Tokens that are written count, whatever they are.
        keep_T = torch.ones(ids.shape[1], dtype=torch.bool, device=self.keep_T.device)
        keep_T[: max(0, length - self.seen)] = self.keep_T[self.seen : self.seen + ids.shape[1]]
        explaining = Explaining(self.model, keep_T)
        changes = Changes(self.model, self.interventions, keep_T, first=self.seen, length=length)

        def change(one: LatentSet, latents: Latents) -> Latents:
            return changes.of(one, latents)

        edits = explaining.edits(lambda point, found: found + explaining.added(point), change)
        self._now = {edit.point: edit for edit in edits}
        self.seen += ids.shape[1]
        return self._decoder.advance(ids, attention)

    def _at(self, point: str) -> Callable[[Tensor], Tensor]:
        def apply(activation: Tensor) -> Tensor:
            return self._now[point].apply(activation)

        return apply
