"""Intervals and tests from sums over blocks of text: the jackknife, Student's t, and many tests at once.

Tokens of one document are not independent, so what is left out at a time is a block of neighbouring rows. Where blocks
are shorter than what the text is about, neighbouring blocks still agree; then they are joined. The crosscoder is taken
as it is: intervals are about other text from the same source, not about another training run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import torch
from attrs import frozen
from torch import Tensor

MOST_AGREEMENT = 0.15
"""Correlation of neighbouring blocks, median over latents, above which blocks are joined."""
FEWEST_BLOCKS = 8


@frozen(eq=False)
class Estimate:
    """A number for each latent with its standard error, by the jackknife over blocks."""

    value: Tensor
    error: Tensor
    freedom: Tensor
    """Degrees of freedom: the effective number of blocks that a latent fires in, less one."""

    def interval(self, confidence: float) -> Tensor:
        """The two-sided interval by Student's t, (..., 2)."""
        reach = student_quantile((1 + confidence) / 2, self.freedom) * self.error
        return torch.stack([self.value - reach, self.value + reach], dim=-1)

    def p_below(self, limit: float) -> Tensor:
        """One-sided p-values of the hypothesis that the true number is `limit` or more."""
        return student_tail((limit - self.value) / self.error.clamp_min(1e-12), self.freedom)

    def p_above(self, limit: float) -> Tensor:
        """One-sided p-values of the hypothesis that the true number is `limit` or less."""
        return student_tail((self.value - limit) / self.error.clamp_min(1e-12), self.freedom)


def jackknife(statistic: Callable[[Tensor], Tensor], num_blocks: int, weight_GF: Tensor) -> Estimate:
    """An estimate from `statistic`, which takes weights of blocks (R, G) and gives a number for each latent, (R, F).

    `weight_GF` is how much of each latent lies in each block. Blocks are joined in pairs while neighbours agree.
    """
    whole = statistic(weight_GF.new_ones(1, num_blocks))[0]
    joined = 1
    while True:
        block_G = torch.arange(num_blocks) // joined
        count = int(block_G[-1]) + 1
        left_RG = 1 - (block_G[None, :] == torch.arange(count)[:, None]).to(weight_GF)
        deviation_RF = torch.cat([statistic(part) for part in torch.split(left_RG, 8)]) - whole
        if count // 2 < FEWEST_BLOCKS or _agreement(deviation_RF, weight_GF) <= MOST_AGREEMENT:
            break
        joined *= 2
    centred_RF = deviation_RF - deviation_RF.mean(dim=0)
    error = ((count - 1) / count * centred_RF.square().sum(dim=0)).sqrt()
    mass_RF = weight_GF.new_zeros(count, weight_GF.shape[1]).index_add_(0, block_G, weight_GF)
    effective = mass_RF.sum(dim=0).square() / mass_RF.square().sum(dim=0).clamp_min(1e-300)
    return Estimate(whole, error, (effective - 1).clamp_min(1.0))


def _agreement(deviation_RF: Tensor, weight_GF: Tensor) -> float:
    """Correlation of neighbouring blocks' deviations, median over the half of the latents that fire most evenly."""
    centred = deviation_RF - deviation_RF.mean(dim=0)
    square = centred.square().sum(dim=0)
    spread = weight_GF.sum(dim=0).square() / weight_GF.square().sum(dim=0).clamp_min(1e-300)
    known = square.isfinite() & (square > 0)
    if int(known.sum()) < 8:
        return 0.0
    known &= spread >= spread[known].median()
    count = len(centred)
    correlation = (centred[1:] * centred[:-1]).sum(dim=0)[known] / square[known]
    # Centring alone makes neighbours look opposed by 1 / count.
    return float(correlation.median()) + 1 / count


def student_quantile(probability: float, freedom: Tensor) -> Tensor:
    """Quantiles of Student's t, by Wallace's (1959) normal approximation turned around."""
    z = NormalDist().inv_cdf(probability) * (8 * freedom + 3) / (8 * freedom + 1)
    return math.copysign(1.0, probability - 0.5) * (freedom * torch.expm1(z.square() / freedom)).sqrt()


def student_tail(t: Tensor, freedom: Tensor) -> Tensor:
    """The probability that Student's t exceeds `t`, by the same approximation."""
    z = (8 * freedom + 1) / (8 * freedom + 3) * (freedom * torch.log1p(t.square() / freedom)).sqrt() * t.sign()
    tail: Tensor = torch.special.ndtr(-z)
    return tail


def discoveries(p_N: Tensor, rate: float) -> Tensor:
    """Which of N hypotheses fall at a false-discovery rate (Benjamini and Hochberg 1995); NaN is never among them."""
    p_N = p_N.nan_to_num(1.0)
    order = p_N.argsort()
    allowed = rate * torch.arange(1, len(p_N) + 1, dtype=p_N.dtype, device=p_N.device) / max(1, len(p_N))
    passed = (p_N[order] <= allowed).nonzero().squeeze(1)
    found = torch.zeros_like(p_N, dtype=torch.bool)
    if len(passed):
        found[order[: int(passed[-1]) + 1]] = True
    return found
