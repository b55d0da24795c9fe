"""A penalty for latents that fire too often: Σ_i max(0, rate_i / limit − 1) · mean over tokens of f_i Σ_s‖d_i^s‖.

Gemma Scope 2 has a frequency penalty that removes latents which fire on more than a tenth of all tokens, but its exact
form is not published. Here the rate on the current batch carries no gradient and scales a penalty on the activations,
which works for any way of selecting latents.
"""

from __future__ import annotations

import torch
from attrs import field, frozen
from attrs.validators import and_, ge, gt, le
from torch import Tensor

from crosscoders import ForwardPass, LossTerm, StepContext


@frozen(kw_only=True)
class FrequencyConfig:
    """Options of the penalty for frequent latents."""

    weight: float = field(default=1.0, validator=ge(0.0))
    """Weight of the term."""
    limit: float = field(default=0.1, validator=and_(gt(0.0), le(1.0)))
    """Share of tokens on which a latent may fire without penalty."""


class Frequency(LossTerm):
    """Loss term `frequency`."""

    def __init__(self, options: FrequencyConfig) -> None:
        super().__init__()
        self.options = options

    def forward(self, forward_pass: ForwardPass, step: StepContext) -> Tensor:
        latents = forward_pass.active.latents
        firings_F = torch.bincount(latents.latent_N, minlength=latents.num_latents)
        rate_F = step.global_mean(firings_F.to(forward_pass.residual_BX))
        excess_F = (rate_F / self.options.limit - 1).clamp_min(0)
        return self.options.weight * step.mean(
            (excess_F * forward_pass.active.total_F() * forward_pass.crosscoder.score_norms()).sum()
        )
