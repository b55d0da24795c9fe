"""Loss `log_penalty`: λ · mean over tokens of Σ log(1 + f_i Σ_s‖d_i^s‖ / ε), which pushes small activations to zero."""

from attrs import field, frozen
from attrs.validators import ge, gt

from crosscoders import Loss, LossOutput, ReluGate


@frozen(kw_only=True)
class LogPenaltyConfig:
    weight: float = field(default=0.3, validator=ge(0.0))
    """λ, the weight of the penalty."""
    scale: float = field(default=0.5, validator=gt(0.0))
    """ε, the scale of the logarithm: far below it the penalty is like L1, far above it nearly constant."""


class LogPenalty(Loss):
    decoder_norm = 0.1

    def __init__(self, options):
        super().__init__()
        self.options = options

    def forward(self, crosscoder, x_BX, step):
        f_BF = crosscoder.pre_activations(x_BX).relu()
        residual_BX = crosscoder.target(x_BX) - crosscoder.decode_normalised(f_BF, x_BX)
        size_BF = f_BF * crosscoder.decoder_norms().sum(dim=1)
        terms = {
            "reconstruction": step.mean(residual_BX.square().sum()),
            "sparsity": self.options.weight * step.mean((1 + size_BF / self.options.scale).log().sum()),
        }
        return LossOutput.from_dense(terms, f_BF, residual_BX)

    def gate(self):
        return ReluGate()
