"""L1 with decoder norms: λ · mean over tokens of Σ_i f_i Σ_s‖d_i^s‖ (Lindsey et al. 2024, §2)."""

from __future__ import annotations

from attrs import field, frozen
from attrs.validators import and_, ge, gt, in_, le
from torch import Tensor

from crosscoders import Crosscoder, Gate, Loss, LossOutput, ReluGate, StepContext


@frozen(kw_only=True)
class L1Config:
    """Sparsity by an L1 penalty on activations times decoder norms."""

    weight: float = field(default=2.0, validator=ge(0.0))
    """λ. Reconstruction is a sum over sites and widths of squared errors in normalised space (Kissane et al.: 2)."""
    ramp_share: float = field(default=0.05, validator=and_(ge(0.0), le(1.0)))
    """Share of the run in which λ rises linearly from 0."""
    norm: str = field(default="l1", validator=in_(("l1", "l2")))
    """`l1`: Σ_s‖d^s‖, which compares sites fairly. `l2`: the norm of the concatenation, an SAE on all sites."""
    decoder_norm: float = field(default=0.1, validator=gt(0.0))
    """Norm of decoder rows at each site when training starts."""


class L1(Loss):
    """Loss `l1`; the decoder norms in the penalty carry gradients."""

    def __init__(self, options: L1Config) -> None:
        super().__init__()
        self.options = options
        self.decoder_norm = options.decoder_norm

    def forward(self, crosscoder: Crosscoder, x_BX: Tensor, step: StepContext) -> LossOutput:
        f_BF = crosscoder.pre_activations(x_BX).relu()
        residual_BX = crosscoder.target(x_BX) - crosscoder.decode_normalised(f_BF, x_BX)
        norms_FS = crosscoder.decoder_norms()
        norm_F = norms_FS.sum(dim=1) if self.options.norm == "l1" else norms_FS.norm(dim=1)
        terms = {
            "reconstruction": step.mean(residual_BX.square().sum()),
            "sparsity": self.weight(step) * step.mean((f_BF.sum(dim=0) * norm_F).sum()),
        }
        return LossOutput.of_dense(terms, f_BF, residual_BX)

    def weight(self, step: StepContext) -> float:
        """λ at this step."""
        ramp = self.options.ramp_share
        return self.options.weight * (min(1.0, (step.progress + 1 / step.total_steps) / ramp) if ramp else 1.0)

    def gate(self) -> Gate:
        return ReluGate()
