"""An L1 term with a weight for each latent group: Σ_g λ_g · mean over tokens of Σ_{i in g} f_i Σ_s‖d_i^s‖."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen
from attrs.validators import min_len
from torch import Tensor

from crosscoders import Crosscoder, ForwardPass, LossTerm, StepContext


@frozen(kw_only=True)
class GroupL1Config:
    """An L1 penalty for chosen latent groups."""

    weights: Mapping[str, float] = field(validator=min_len(1))
    """λ, the weight of the penalty, by group name; groups that are not named have none."""


class GroupL1(LossTerm):
    """Loss term `group_l1`."""

    def __init__(self, options: GroupL1Config) -> None:
        super().__init__()
        self.weights = dict(options.weights)

    def attach(self, crosscoder: Crosscoder) -> None:
        for name in self.weights:
            crosscoder.wiring.group(name)

    def forward(self, forward_pass: ForwardPass, step: StepContext) -> Tensor:
        return group_l1(forward_pass, self.weights, step)


def group_l1(forward_pass: ForwardPass, weights: Mapping[str, float], step: StepContext) -> Tensor:
    """Compute the penalty; decoder norms carry gradients."""
    charge_F = forward_pass.active.total_F() * forward_pass.crosscoder.decoder_norms().sum(dim=1)
    slices = forward_pass.crosscoder.wiring.latent_slices
    total = charge_F.new_zeros(())
    for name, weight in weights.items():
        total = total + weight * charge_F[slices[name]].sum()
    return step.mean(step.over_latents(total))
