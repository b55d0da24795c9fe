"""A penalty for dedicated features: BatchTopK with L1 on shared and on exclusive latents, each with its own weight.

It follows Antebe's tool-use study (2026), whose code penalises the shared latents in the exclusive term as well; here
each latent is penalised once. Jiralerspong and Bricken (2026) train dedicated features with plain `batchtopk`.
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen
from attrs.validators import ge
from torch import Tensor

from crosscoders import ConfigError, Crosscoder, ForwardPass, StepContext

from .batchtopk import BatchTopK, BatchTopKConfig
from .group_l1 import group_l1


@frozen(kw_only=True)
class DFCConfig(BatchTopKConfig):
    """BatchTopK with a penalty on shared and exclusive latents."""

    shared: str = "shared"
    """Name of the group of latents that all models share; `shared` in the architecture `dedicated`."""
    shared_weight: float = field(default=0.01, validator=ge(0.0))
    """λ, the weight of the penalty, for shared latents."""
    exclusive_weight: float = field(default=0.01, validator=ge(0.0))
    """λ, the weight of the penalty, for exclusive latents."""


class DFC(BatchTopK):
    """Loss `dfc`."""

    options: DFCConfig

    def attach(self, crosscoder: Crosscoder) -> None:
        crosscoder.wiring.group(self.options.shared)
        if len(crosscoder.wiring.groups) < 2:
            raise ConfigError("the loss 'dfc' needs exclusive latents too: choose the architecture 'dedicated'")
        super().attach(crosscoder)

    def penalties(self, forward_pass: ForwardPass, step: StepContext) -> Mapping[str, Tensor]:
        options = self.options
        weights = {
            group.name: options.shared_weight if group.name == options.shared else options.exclusive_weight
            for group in forward_pass.crosscoder.wiring.groups
        }
        return {**super().penalties(forward_pass, step), "dedicated": group_l1(forward_pass, weights, step)}
