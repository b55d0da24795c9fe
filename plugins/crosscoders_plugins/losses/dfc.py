"""The penalty for dedicated features: TopK with L1 on shared and on exclusive latents, each with its own weight.

After Antebe's tool-use study (2026), whose code charges the shared latents in the exclusive term too; here each latent
pays once. Jiralerspong and Bricken (2026) train dedicated features with plain `batchtopk`.
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
    """The group of latents that all models share; the architecture `dedicated` calls it so."""
    shared_weight: float = field(default=0.01, validator=ge(0.0))
    """λ of shared latents."""
    exclusive_weight: float = field(default=0.01, validator=ge(0.0))
    """λ of all others."""


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
