"""Steering a penalty's weight so that L0 comes to a target, for losses whose L0 follows from λ only indirectly."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from crosscoders import ConfigError, Crosscoder, StepContext

RESPONSE_SHARE = 0.05
"""At twice the target, the integral part doubles the weight within this share of the run."""
PROPORTION = 2.0
"""At twice the target the weight is at once 2 to this power times larger: without it the integral part swings."""
LIMIT = 14.0
"""Largest power of 2 that the integral part may reach, either way."""


def check_target(target: float, crosscoder: Crosscoder) -> None:
    """`ConfigError` where no crosscoder of this size can have as many active latents."""
    count = crosscoder.num_latents * crosscoder.processes.num_shards
    if target > count:
        raise ConfigError(f"target_l0 = {target:g} is more than the {count} latents")


class L0Control(nn.Module):
    """A factor on λ from a proportional and an integral part of log2(L0 / target).

    In logarithms, so that neither the scale of λ nor that of L0 matters. It acts from the end of warm-up on.
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
        """Take note of the number of active latents on this process's tokens."""
        if not self.target or not self.training or not step.warmed_up:
            return
        l0 = float(step.global_mean(num_active.float()))
        error = max(-2.0, min(2.0, math.log2(max(l0, 1e-3) / self.target)))
        self.integral.add_(error / max(1.0, RESPONSE_SHARE * step.total_steps)).clamp_(-LIMIT, LIMIT)
        self.factor.fill_(2.0 ** (float(self.integral) + PROPORTION * error))
