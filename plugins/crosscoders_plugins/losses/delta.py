"""Delta-Crosscoder: separate k for shared and delta latents, and a term for predicting the models' difference.

Kassem et al. 2026 (arXiv 2603.04426): L_Δ = ‖(x_b − x_a) − (W_b − W_a) f‖², weight 0.005. The paper has no code, and
audits could not reproduce its claims. This is the loss as it is written down, with the difference predicted by the
delta latents only, since the rows of shared latents are tied or should be.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from attrs import field, frozen
from attrs.validators import ge
from torch import Tensor

from crosscoders import ConfigError, Crosscoder, ForwardPass, StepContext
from crosscoders.authoring import BatchSelectionConfig, BatchSelectionLoss


@frozen(kw_only=True)
class DeltaConfig(BatchSelectionConfig):
    """BatchTopK with two budgets and a term for the difference of two sites; `k` counts delta latents."""

    shared: str = "designated"
    """Name of the group of shared latents; all other groups are delta latents."""
    k_shared: int = field(default=200, validator=ge(1))
    """Number of active shared latents per token."""
    difference_weight: float = field(default=0.005, validator=ge(0.0))
    """Weight of the term for the difference of the two sites."""


class Delta(BatchSelectionLoss):
    """Loss `delta`. It needs two written sites of equal width, and a group of shared latents that is first or last."""

    options: DeltaConfig

    def attach(self, crosscoder: Crosscoder) -> None:
        wiring = crosscoder.wiring
        wiring.group(self.options.shared)
        if len(wiring.groups) < 2:
            raise ConfigError("the loss 'delta' needs delta latents too: choose the architecture 'designated_shared'")
        if len({site.width for site in wiring.written.sites}) > 1 or len(wiring.written.sites) != 2:
            raise ConfigError("the loss 'delta' needs two written sites of equal width")
        super().attach(crosscoder)

    def budgets(self, crosscoder: Crosscoder) -> list[tuple[slice, int]]:
        # All delta groups compete for the same places, so they must be contiguous: shared latents come first or last.
        shared = crosscoder.wiring.latent_slices[self.options.shared]
        sides = [slice(0, shared.start), slice(shared.stop, crosscoder.num_latents)]
        if all(side.stop > side.start for side in sides):
            raise ConfigError(f"the latent group '{self.options.shared}' must be the first or the last")
        delta = sides[0] if sides[0].stop else sides[1]
        budgets = [(shared, self.options.k_shared), (delta, self.options.k)]
        return sorted(budgets, key=lambda budget: budget[0].start)

    def penalties(self, forward_pass: ForwardPass, step: StepContext) -> Mapping[str, Tensor]:
        crosscoder = forward_pass.crosscoder
        shared = crosscoder.wiring.latent_slices[self.options.shared]
        delta_F = torch.ones(crosscoder.num_latents, dtype=torch.bool, device=forward_pass.x_BX.device)
        delta_F[shared] = False
        first, second = crosscoder.written.unpack(
            step.over_latents(forward_pass.active.contribution(crosscoder, delta_F))
        ).values()
        before, after = crosscoder.written.unpack(crosscoder.target(forward_pass.x_BX) - crosscoder.b_dec_X).values()
        error = (after - before - (second - first)).square().sum()
        return {
            **super().penalties(forward_pass, step),
            "difference": self.options.difference_weight * step.mean(error),
        }
