"""Latents that are near each other: by the directions that they write, and by being active on the same tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from attrs import frozen
from torch import Tensor

from ..crosscoder.module import Crosscoder
from .firings import Firings

GATHERED = 2**22
"""Entries that are looked at together, 32 MB."""
LEAST_TOGETHER = 2
"""Tokens on which both latents are active; a single one is no correlation."""

Neighbour = tuple[int, float]


@torch.no_grad()
def nearest_rows(crosscoder: Crosscoder, latents: Sequence[int], count: int) -> list[list[Neighbour]]:
    """For each latent, the `count` others whose decoder rows have the largest cosine, over all written sites together.

    Rows are taken in normalised units, so that sites weigh equally, and are 0 where a latent does not write.
    """
    wiring, written = crosscoder.wiring, crosscoder.written
    norm_F = crosscoder.decoder_norms().square().sum(dim=1).sqrt()
    row_KX = norm_F.new_zeros(len(latents), written.width)
    chosen_K = torch.tensor(list(latents), device=norm_F.device)
    columns = {
        group.name: torch.arange(written.width)[written.columns(group.writes)].to(norm_F.device)
        for group in wiring.groups
    }
    weights = [crosscoder.decoder_weight(index) for index in range(len(wiring.groups))]
    for group, W in zip(wiring.groups, weights, strict=True):
        mine = wiring.latent_slices[group.name]
        here = ((chosen_K >= mine.start) & (chosen_K < mine.stop)).nonzero().squeeze(1)
        row_KX[here[:, None], columns[group.name]] = W[chosen_K[here] - mine.start]
    cosine_KF = norm_F.new_empty(len(latents), crosscoder.num_latents)
    for group, W in zip(wiring.groups, weights, strict=True):
        cosine_KF[:, wiring.latent_slices[group.name]] = row_KX[:, columns[group.name]] @ W.T
    cosine_KF /= norm_F[chosen_K][:, None] * norm_F
    cosine_KF[torch.arange(len(latents)), chosen_K] = -torch.inf
    best = cosine_KF.nan_to_num(-torch.inf).topk(min(count, crosscoder.num_latents), dim=1)
    return [_known(ids, values) for ids, values in zip(best.indices, best.values, strict=True)]


@frozen(eq=False)
class Together:
    """Which latents are active on the same tokens: exact counts, one latent at a time."""

    firings: Firings

    def of(self, latent: int, place_N: np.ndarray, count: int) -> list[Neighbour]:
        """The `count` others whose being active correlates most (φ), of those that share two tokens with it or more.

        `place_N` are all places where the latent is active.
        """
        F, total = self.firings.num_latents, self.firings.num_tokens
        both_F = np.zeros(F, np.int64)
        starts_P = self.firings.starts_P
        start_N, size_N = starts_P[place_N], starts_P[place_N.astype(np.int64) + 1] - starts_P[place_N]
        for part in np.split(np.arange(len(place_N)), np.flatnonzero(np.diff(np.cumsum(size_N) // GATHERED)) + 1):
            sizes = size_N[part]
            entry_M = np.arange(sizes.sum()) + np.repeat(start_N[part] - (np.cumsum(sizes) - sizes), sizes)
            both_F += np.bincount(self.firings.active_M[entry_M], minlength=F)
        both_F[latent] = 0
        other_J = np.flatnonzero(both_F >= LEAST_TOGETHER)
        own, theirs_J = float(self.firings.count_F[latent]), self.firings.count_F[other_J].astype(float)
        spread_J = np.sqrt(own * (total - own) * theirs_J * (total - theirs_J))
        over_J = total * both_F[other_J] - own * theirs_J
        phi_J = np.divide(over_J, spread_J, out=np.zeros_like(spread_J), where=spread_J > 0)
        best = np.argsort(-phi_J, kind="stable")[:count]
        return [(int(other_J[i]), float(phi_J[i])) for i in best if phi_J[i] > 0]


def _known(ids: Tensor, values: Tensor) -> list[Neighbour]:
    pairs = zip(ids.tolist(), values.tolist(), strict=True)
    return [(latent, value) for latent, value in pairs if value > -float("inf")]
