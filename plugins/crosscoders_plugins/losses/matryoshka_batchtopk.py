"""Matryoshka BatchTopK: each prefix of the dictionary must reconstruct by itself (Bussmann et al. 2025, 2503.17547).

There is one BatchTopK selection over the whole dictionary. Reconstruction is averaged over the levels of the wiring's
nesting, where level l decodes with the latents of levels up to l. This is not published for crosscoders; scores and
errors extend over sites as in BatchTopK.
"""

from __future__ import annotations

import torch
from attrs import field, frozen
from torch import Tensor

from crosscoders import ConfigError, Crosscoder, ForwardPass, StepContext
from crosscoders.authoring import BatchSelectionConfig, BatchSelectionLoss
from crosscoders.converters import as_tuple


@frozen(kw_only=True)
class MatryoshkaBatchTopKConfig(BatchSelectionConfig):
    """BatchTopK over nested levels, which the architecture `matryoshka` provides."""

    level_weights: tuple[float, ...] = field(default=(), converter=as_tuple)
    """Weight of the reconstruction by each level; weights are divided by their sum. Empty weights all levels
    equally."""


class MatryoshkaBatchTopK(BatchSelectionLoss):
    """Loss `matryoshka_batchtopk`."""

    options: MatryoshkaBatchTopKConfig

    def attach(self, crosscoder: Crosscoder) -> None:
        levels = crosscoder.wiring.nesting
        if not levels:
            raise ConfigError("the loss 'matryoshka_batchtopk' needs nested latents: use the architecture 'matryoshka'")
        weights = self.options.level_weights
        if weights and len(weights) != len(levels):
            raise ConfigError(f"{len(weights)} level_weights were given for {len(levels)} levels")
        super().attach(crosscoder)

    def reconstruction(self, forward_pass: ForwardPass, step: StepContext) -> Tensor:
        crosscoder = forward_pass.crosscoder
        level_F = level_of_latents(crosscoder)
        count = len(crosscoder.wiring.nesting)
        weights = self.options.level_weights or (1.0,) * count
        residual_BX = forward_pass.residual_BX
        total = residual_BX.new_zeros(())
        # Start from the whole dictionary and remove levels: removing one adds what it wrote back to the residual.
        for level in range(count - 1, -1, -1):
            total = total + weights[level] / sum(weights) * self.error(crosscoder, residual_BX, step)
            if level:
                residual_BX = residual_BX + forward_pass.active.contribution(crosscoder, level_F == level)
        return total


def level_of_latents(crosscoder: Crosscoder) -> Tensor:
    """The Matryoshka level of each latent, (F,)."""
    sizes = [size for group in crosscoder.wiring.groups for size in crosscoder.wiring.level_sizes(group)]
    levels = torch.arange(len(crosscoder.wiring.nesting)).repeat(len(crosscoder.wiring.groups))
    return levels.repeat_interleave(torch.tensor(sizes)).to(crosscoder.device)
