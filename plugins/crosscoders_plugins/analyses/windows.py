"""Windows of text around activations, sampled for explaining and scoring latents: positives, negatives, hard ones."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import torch
from attrs import define, field, frozen
from torch.nn import functional

from crosscoders import Crosscoder, Study
from crosscoders.authoring import token_texts

BEFORE, AFTER = 16, 8
POOL = 200
"""Windows kept of each latent, and without regard to any, by reservoir sampling."""


@frozen
class Window:
    """A piece of text, and the values of one latent on its tokens."""

    tokens: tuple[str, ...]
    values: tuple[float, ...]

    @property
    def peak(self) -> float:
        """The largest value."""
        return max(self.values)

    def marked(self, marks: Sequence[bool] | None = None) -> str:
        """The text with tokens between « and », those with a value unless others are named."""
        marks = [value > 0 for value in self.values] if marks is None else marks
        return "".join(f"«{token}»" if mark else token for token, mark in zip(self.tokens, marks, strict=True))

    @property
    def text(self) -> str:
        """The text as it is."""
        return "".join(self.tokens)


@define
class Reservoir:
    """A uniform sample of what it was offered, of at most `POOL`."""

    seen: int = 0
    kept: list[tuple[tuple[int, ...], dict[int, tuple[float, ...]]]] = field(factory=list)

    def offer(self, ids: tuple[int, ...], values: dict[int, tuple[float, ...]], draw: random.Random) -> None:
        """Take it in with the chance that keeps the sample uniform."""
        self.seen += 1
        if len(self.kept) < POOL:
            self.kept.append((ids, values))
        elif (place := draw.randrange(self.seen)) < POOL:
            self.kept[place] = ids, values


@frozen
class Sampled:
    """Windows of one latent, in an order by chance."""

    positive: list[Window]
    negative: list[Window]
    hard: list[Window]
    """Windows where its nearest latent by decoder cosine is active and it is not."""


@torch.no_grad()
def sampled(study: Study, latents: Sequence[int]) -> Mapping[int, Sampled]:
    """Windows of each of the latents from one pass over the study's text."""
    neighbour = _neighbours(study.crosscoder, latents)
    chosen = sorted({*latents, *neighbour.values()})
    column = {j: k for k, j in enumerate(chosen)}
    place_F = torch.full((study.crosscoder.num_latents,), -1, dtype=torch.int64)
    place_F[chosen] = torch.arange(len(chosen))
    draw = random.Random(study.seed)
    active = {j: Reservoir() for j in chosen}
    anywhere = Reservoir()
    for batch in study.batches():
        found = batch.latents
        column_N = place_F[found.latent_N.cpu()]
        mine_N = column_N >= 0
        row_N, position_N = batch.place_B2.cpu()[found.token_N.cpu()[mine_N]].unbind(dim=1)
        ids_BT, length_B = batch.tokens.ids.cpu(), batch.tokens.attention.sum(dim=1).tolist()
        f_BTK = torch.zeros(*ids_BT.shape, len(chosen))
        f_BTK[row_N, position_N, column_N[mine_N]] = found.value_N.detach().cpu().float()[mine_N]
        for row, length in enumerate(length_B):
            f_TK = f_BTK[row, :length]
            peak_K, at_K = f_TK.max(dim=0)
            for k in (peak_K > 0).nonzero().squeeze(1).tolist():
                _offer(active[chosen[k]], ids_BT[row, :length], f_TK, int(at_K[k]), draw)
            _offer(anywhere, ids_BT[row, :length], f_TK, draw.randrange(length), draw)
    return {
        j: Sampled(
            _windows(study, active[j], column[j], draw),
            [w for w in _windows(study, anywhere, column[j], draw) if w.peak == 0],
            [w for w in _windows(study, active[neighbour[j]], column[j], draw) if w.peak == 0],
        )
        for j in latents
    }


def _offer(to: Reservoir, ids_T: torch.Tensor, f_TK: torch.Tensor, centre: int, draw: random.Random) -> None:
    start, stop = max(0, centre - BEFORE), min(len(ids_T), centre + AFTER + 1)
    part_TK = f_TK[start:stop]
    values = {int(k): tuple(part_TK[:, k].tolist()) for k in part_TK.amax(dim=0).nonzero().squeeze(1)}
    to.offer(tuple(ids_T[start:stop].tolist()), values, draw)


def _windows(study: Study, reservoir: Reservoir, k: int, draw: random.Random) -> list[Window]:
    """What a reservoir holds, as windows with the values of the k-th chosen latent."""
    windows = [
        Window(tuple(token_texts(study.reading, ids)), values.get(k, (0.0,) * len(ids)))
        for ids, values in reservoir.kept
    ]
    draw.shuffle(windows)
    return windows


def _neighbours(crosscoder: Crosscoder, latents: Sequence[int]) -> dict[int, int]:
    """For each latent the most alike other one by the cosine of joint decoder vectors."""
    rows = torch.cat([crosscoder.decoder_rows(name) for name in crosscoder.written.names], dim=1)
    rows_FX = functional.normalize(rows, dim=1)
    cosine_KF = rows_FX[list(latents)] @ rows_FX.T
    cosine_KF[torch.arange(len(latents)), list(latents)] = -2.0
    return dict(zip(latents, cosine_KF.argmax(dim=1).tolist(), strict=True))
