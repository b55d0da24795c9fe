"""Adjusting the weight of a penalty so that L0 reaches a target, for losses that set L0 only indirectly through λ."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from crosscoders import ConfigError, Crosscoder, StepContext

RESPONSE_SHARE = 0.05
"""At twice the target, the integral part doubles the weight within this share of the run."""
PROPORTION = 2.0
"""At twice the target, the proportional part multiplies the weight by 2 to this power. Without it, the integral part
oscillates."""
LIMIT = 14.0
"""The integral part multiplies the weight by at most 2 to this power, and by at least 2 to minus this power."""


def check_target(target: float, crosscoder: Crosscoder) -> None:
    """`ConfigError` where no crosscoder of this size can have as many active latents."""
    count = crosscoder.num_latents * crosscoder.processes.num_shards
    if target > count:
        raise ConfigError(f"target_l0 = {target:g} is more than the {count} latents")


class L0Control(nn.Module):
    """A proportional-integral controller: a factor on λ that depends on log2(L0 / target).

    It works with logarithms, so that neither the scale of λ nor that of L0 matters. It acts once warm-up is over.
    """

    factor: Tensor
    integral: Tensor

    def __init__(self, target: float) -> None:
        super().__init__()
        self.target = target
        self.register_buffer("factor", torch.ones(()))
        self.register_buffer("integral", torch.zeros(()))

    @torch.no_grad()
    def update(self, num_active: Tensor, step: StepContext) -> None:
        """Update the factor with the number of active latents on this process's tokens."""
        if not self.target or not self.training or not step.warmed_up:
            return
        l0 = float(step.global_mean(num_active.float()))
        error = max(-2.0, min(2.0, math.log2(max(l0, 1e-3) / self.target)))
        self.integral.add_(error / max(1.0, RESPONSE_SHARE * step.total_steps)).clamp_(-LIMIT, LIMIT)
        self.factor.fill_(2.0 ** (float(self.integral) + PROPORTION * error))
