"""Twins: pairs of latents, one of each model, that write the same direction and so may be one concept split in two.

Where a crosscoder gives two latents to what is one concept, each looks exclusive to its model. A pair is of latents at
home in different models whose rows there have a cosine above 0.9. They diverge where one is high, at least 0.4 of its
largest value in the text, while the other is low, below 0.1 of its own (Minder et al. 2025).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from attrs import frozen
from torch.nn import functional

from crosscoders import Latents, Study

ALIKE, HIGH, LOW = 0.9, 0.4, 0.1


@frozen
class Twin:
    """The most alike latent of another model, and how the two fire."""

    latent: int
    cosine: float
    divergence: float
    """Of the tokens on which one of the two is high, the share on which the other is low; NaN where none is."""


@torch.no_grad()
def twins(study: Study, leaning: Sequence[str]) -> dict[int, Twin]:
    """By latent; `leaning` names the site at which each latent is at home, or is empty where it leans to none.

    Only latents that lean to different models are compared, and only sites of equal width.
    """
    crosscoder = study.crosscoder
    by_site: dict[str, list[int]] = {}
    for j, name in enumerate(leaning):
        if name:
            by_site.setdefault(name, []).append(j)
    rows = {
        name: functional.normalize(crosscoder.decoder_rows(name)[latents], dim=1).cpu()
        for name, latents in by_site.items()
    }
    partner: dict[int, tuple[int, float]] = {}
    for a, mine in by_site.items():
        for b, theirs in by_site.items():
            if a.partition("/")[0] == b.partition("/")[0] or rows[a].shape[1] != rows[b].shape[1]:
                continue
            best = (rows[a] @ rows[b].T).max(dim=1)
            for j, cosine, k in zip(mine, best.values.tolist(), best.indices.tolist(), strict=True):
                if cosine > max(ALIKE, partner.get(j, (0, 0.0))[1]):
                    partner[j] = theirs[k], cosine
    diverging = _divergence(study, [(j, other) for j, (other, _) in partner.items()])
    return {j: Twin(other, cosine, diverging[j, other]) for j, (other, cosine) in partner.items()}


def _divergence(study: Study, pairs: Sequence[tuple[int, int]]) -> dict[tuple[int, int], float]:
    if not pairs:
        return {}
    chosen = sorted({j for pair in pairs for j in pair})
    place = {j: i for i, j in enumerate(chosen)}
    first, second = (torch.tensor([place[pair[side]] for pair in pairs]) for side in (0, 1))
    largest_K = torch.zeros(len(chosen))
    for batch in study.batches():
        largest_K = torch.maximum(largest_K, _dense(batch.latents, chosen).amax(dim=0))
    high_P, apart_P = torch.zeros(len(pairs)), torch.zeros(len(pairs))
    for batch in study.batches():
        f_BK = _dense(batch.latents, chosen) / largest_K.clamp_min(1e-30)
        a_BP, b_BP = f_BK[:, first], f_BK[:, second]
        high_P += ((a_BP >= HIGH) | (b_BP >= HIGH)).sum(dim=0)
        apart_P += (((a_BP >= HIGH) & (b_BP < LOW)) | ((b_BP >= HIGH) & (a_BP < LOW))).sum(dim=0)
    share = (apart_P / high_P).tolist()
    return dict(zip(pairs, share, strict=True))


def _dense(latents: Latents, chosen: Sequence[int]) -> torch.Tensor:
    """Values of the chosen latents on each token, (B, K), on the CPU."""
    place_F = torch.full((latents.num_latents,), -1, dtype=torch.int64)
    place_F[list(chosen)] = torch.arange(len(chosen))
    column_N = place_F[latents.latent_N.cpu()]
    mine_N = column_N >= 0
    f_BK = torch.zeros(latents.num_tokens, len(chosen))
    f_BK[latents.token_N.cpu()[mine_N], column_N[mine_N]] = latents.value_N.detach().cpu().float()[mine_N]
    return f_BK
