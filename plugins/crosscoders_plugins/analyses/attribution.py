"""Which latents carry a behaviour: its answers, read again with one latent after another taken out.

Taken out of a latent is what it does otherwise after fine-tuning: x^after − f_j (d_j^after − d_j^before).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from crosscoders import AnalysisError, Edit, StudyBatch, TokenIds
from crosscoders.authoring import Amplified, Patching, gives_logits, precise, vocabulary_of

from .sampling import amplified

SURE = 1e-6
"""The smallest distance of a log-probability from 0, where rounding of its parts is not yet all of it."""


@frozen
class Answer:
    """One answer as tokens, and where in prompt and answer together a behaviour is."""

    prompt: tuple[int, ...]
    ids: tuple[int, ...]
    start: int
    stop: int


def answer_with(
    adapter: Any, pattern: re.Pattern[str], prompt: Sequence[int], ids: Sequence[int], *, lead: int = 0
) -> Answer | None:
    """The answer if it has the behaviour, with the tokens that a match of the pattern lies in.

    Up to `lead` tokens of the answer before the match count as the behaviour too: once it has begun, its words may
    follow from each other, and what decides is how it begins.
    """
    match = pattern.search(adapter.text(ids))
    if match is None:
        return None
    ends = [len(adapter.text(ids[: n + 1])) for n in range(len(ids))]
    start = next((n for n, end in enumerate(ends) if end > match.start()), 0)
    stop = next((n + 1 for n, end in enumerate(ends) if end >= match.end()), len(ids))
    return Answer(tuple(prompt), tuple(ids), len(prompt) + max(0, start - lead), len(prompt) + stop)


@frozen(eq=False, slots=False)
class Reading:
    """Answers with a behaviour, and how likely it is in them by amplified logits, with latents taken out or not."""

    patching: Patching
    """From the model after fine-tuning, the source, to the one before, the target."""
    alpha: float
    """Of the logits; 0 is the model after fine-tuning itself."""
    batch: StudyBatch
    span_BT: Tensor
    """Boolean: tokens of the behaviour."""

    @classmethod
    def of(cls, patching: Patching, alpha: float, answers: Sequence[Answer]) -> Reading:
        """Read some answers."""
        study = patching.study
        if vocabulary_of(study.adapter(patching.source)) != vocabulary_of(study.reading):
            raise AnalysisError(
                f"the study's text is read by another tokenizer than that of {patching.source}, so its answers cannot "
                "be read again"
            )
        batch = study.batch([TokenIds((*answer.prompt, *answer.ids)) for answer in answers])
        span_BT = torch.zeros_like(batch.keep_BT)
        for row, answer in enumerate(answers):
            span_BT[row, answer.start : answer.stop] = True
        return cls(patching, alpha, batch, span_BT)

    def candidates(self, count: int) -> list[int]:
        """The latents that do most otherwise before the behaviour's last token: Σ f_j ‖d_j^after − d_j^before‖."""
        latents = self.batch.latents
        places_T = torch.arange(self.span_BT.shape[1], device=self.span_BT.device)
        last_B = (self.span_BT * places_T).amax(dim=1)
        row_N, position_N = self.batch.place_B2[latents.token_N].unbind(dim=1)
        before_N = position_N < last_B[row_N]
        sum_F = torch.zeros(latents.num_latents).index_add_(
            0, latents.latent_N[before_N].cpu(), latents.value_N[before_N].cpu()
        )
        live = sum_F.nonzero().squeeze(1)
        turn_K = self.patching.turn(live.tolist()).norm(dim=1).cpu()
        order = (sum_F[live] * turn_K).argsort(descending=True, stable=True)
        found: list[int] = live[order[:count]].tolist()
        return found

    def jointly(self, alone: Mapping[int, float], count: int, tried: int) -> dict[int, float]:
        """The `count` latents that carry the behaviour together, with the log odds lost as each goes after the others.

        Two latents may take away the same, so that those which matter most one by one need not be the right ones
        together. Each step takes the latent whose removal costs most beside those already taken, of the `tried` that
        promised most when last measured. `alone` has what each candidate costs by itself.
        """
        promise, taken = dict(alone), dict[int, float]()
        left = self.log_odds()
        while promise and len(taken) < count:
            for j in sorted(promise, key=lambda j: (-promise[j], j))[:tried] if taken else ():
                promise[j] = left - self.log_odds([*taken, j])
            best = max(promise, key=lambda j: (promise[j], -j))
            taken[best] = promise.pop(best)
            left -= taken[best]
        return taken

    def log_odds(self, without: Sequence[int] = ()) -> float:
        """log p / (1 − p) of all the behaviour's tokens, each after those before it: mean over answers, in nats.

        Odds tell latents apart also where the behaviour is nearly sure, and p would hardly move.
        """
        adapter = gives_logits(self.patching.study.adapter(self.patching.source), "attribution")
        batch = self.batch
        moved = Amplified(self.patching, -1.0, list(without)).moved(batch.x_BTX, batch.keep_BT) if without else {}
        logits_BTV = adapter.logits(batch.tokens, [Edit.add(point, move) for point, move in moved.items()])
        logp_NV = amplified(logits_BTV[self._predicts_BT], self._before_NV, self.alpha).float().log_softmax(dim=-1)
        next_N = batch.tokens.ids[self.span_BT].to(logp_NV.device)
        found_N = precise(logp_NV.gather(1, next_N[:, None]).squeeze(1))
        row_N = self.span_BT.nonzero()[:, 0].to(found_N.device)
        logp_B = found_N.new_zeros(len(self.span_BT)).index_add_(0, row_N, found_N).clamp_max(-SURE)
        return float((logp_B - (-torch.expm1(logp_B)).log()).mean())

    @cached_property
    def _predicts_BT(self) -> Tensor:
        """Places whose next token is one of the behaviour's."""
        before_BT = self.span_BT.roll(-1, dims=1)
        before_BT[:, -1] = False
        return before_BT

    @cached_property
    def _before_NV(self) -> Tensor:
        """Logits of the model before fine-tuning there."""
        before = gives_logits(self.patching.study.adapter(self.patching.target), "attribution")
        return before.logits(self.batch.tokens)[self._predicts_BT]
