"""The loss term `auxk`: dead latents predict the residual of the others (Gao et al. 2024, appendix A.2)."""

from __future__ import annotations

from attrs import field, frozen
from attrs.validators import and_, ge, gt, le
from torch import Tensor

from crosscoders import ForwardPass, LossTerm, StepContext
from crosscoders.authoring import auxk


@frozen(kw_only=True)
class AuxKConfig:
    """Options of the auxiliary term for dead latents."""

    weight: float = field(default=1 / 32, validator=ge(0.0))
    """Weight of the term."""
    k_share: float = field(default=0.5, validator=and_(gt(0.0), le(1.0)))
    """Dead latents used per token, as a share of the mean width of a site."""
    relative: bool = False
    """Divide by the variance of the residual over the batch, as goes with `reconstruction = "mean_l2"`."""


class AuxK(LossTerm):
    """Loss term `auxk`."""

    def __init__(self, options: AuxKConfig) -> None:
        super().__init__()
        self.options = options

    def forward(self, forward_pass: ForwardPass, step: StepContext) -> Tensor:
        return self.options.weight * auxk(
            forward_pass, step, k_share=self.options.k_share, relative=self.options.relative
        )
