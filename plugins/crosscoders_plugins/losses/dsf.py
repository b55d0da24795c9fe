"""The penalty for designated shared features: L1 with a smaller λ for them (Mishra-Sharma et al. 2025).

With equal weights, tied latents would compete with exclusive ones that cost the same. With λ_s of 0.1 to 0.2 λ_f, the
shared latents absorb what both models have, and exclusive latents are left for what only one has. A study of a
mixture-of-experts model (Chaudhari et al. 2026) needed 0.7.
"""

from __future__ import annotations

from attrs import field, frozen
from attrs.validators import ge
from torch import Tensor

from crosscoders import Crosscoder

from .l1 import L1, L1Config


@frozen(kw_only=True)
class DSFConfig(L1Config):
    """L1 with a separate weight for one latent group."""

    designated: str = "designated"
    """Name of the latent group with the smaller penalty; `designated` in the architecture `designated_shared`."""
    designated_share: float = field(default=0.15, validator=ge(0.0))
    """λ_s / λ_f, the weight of the penalty for designated latents relative to that of the others."""


class DSF(L1):
    """Loss `dsf`."""

    options: DSFConfig

    def attach(self, crosscoder: Crosscoder) -> None:
        super().attach(crosscoder)
        crosscoder.wiring.group(self.options.designated)

    def charge(self, charge_F: Tensor, crosscoder: Crosscoder) -> Tensor:
        designated = charge_F[crosscoder.wiring.latent_slices[self.options.designated]].sum()
        return charge_F.sum() - (1 - self.options.designated_share) * designated
