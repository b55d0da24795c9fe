"""BatchTopK: of a whole batch keep the B·k largest f_i·Σ_s‖d_i^s‖, decode the unscaled f.

Bussmann et al. 2024 (arXiv 2412.06410) for SAEs; Minder et al. 2025 (arXiv 2504.02922, §3.2) for crosscoders. The
auxiliary term for dead latents is Gao et al.'s AuxK (arXiv 2406.04093, appendix A.2) on the scale of the main term.
"""

from __future__ import annotations

import torch
from attrs import field, frozen
from attrs.validators import and_, ge, gt, le
from torch import Tensor

from crosscoders import Crosscoder, Gate, Latents, Loss, LossOutput, ScoreThresholdGate, StepContext
from crosscoders.kernels import batch_topk_mask

HINT_MARGIN = 0.9
"""The next step's cut is expected above this share of the present one; a wrong guess only costs time."""


@frozen(kw_only=True)
class BatchTopKConfig:
    """Sparsity by keeping the largest activations of the batch."""

    k: int = field(default=100, validator=ge(1))
    """Active latents per token, on average."""
    aux_weight: float = field(default=1 / 32, validator=ge(0.0))
    """Weight of the auxiliary term, in which dead latents predict what the others left over."""
    aux_k_share: float = field(default=0.5, validator=and_(gt(0.0), le(1.0)))
    """Dead latents used per token, as a share of the mean width of a site."""
    threshold_decay: float = field(default=0.999, validator=and_(ge(0.0), le(1.0)))
    """Decay per step of the moving average of the smallest selected score,"""
    threshold_window_share: float = field(default=0.02, validator=and_(gt(0.0), le(1.0)))
    """or a window of this share of the run, whichever is shorter."""
    decoder_norm: float = field(default=1.0, validator=gt(0.0))
    """Norm of decoder rows at each site when training starts."""


class BatchTopK(Loss):
    """Loss `batchtopk`; scores carry no gradient."""

    threshold: Tensor
    cut: Tensor
    averaging: Tensor

    def __init__(self, options: BatchTopKConfig) -> None:
        super().__init__()
        self.options = options
        self.decoder_norm = options.decoder_norm
        self.register_buffer("threshold", torch.tensor(0.0))
        self.register_buffer("cut", torch.tensor(0.0))
        self.register_buffer("averaging", torch.tensor(False))

    def forward(self, crosscoder: Crosscoder, x_BX: Tensor, step: StepContext) -> LossOutput:
        with torch.no_grad():
            f_BF = crosscoder.pre_activations(x_BX).relu_()
            score_BF = f_BF * crosscoder.score_norms()
        latents = self._select(f_BF, score_BF, step)
        value_N = crosscoder.values(x_BX, latents)
        residual_BX = crosscoder.target(x_BX) - crosscoder.decode_normalised(latents, x_BX, value_N=value_N)
        terms = {"reconstruction": step.mean(residual_BX.square().sum())}
        if self.options.aux_weight:
            terms["auxk"] = self.options.aux_weight * self._auxk(
                crosscoder, x_BX, f_BF, score_BF, residual_BX.detach(), step
            )
        return LossOutput.of_sparse(terms, latents, residual_BX)

    def gate(self) -> Gate:
        return ScoreThresholdGate(float(self.threshold))

    @torch.no_grad()
    def _select(self, f_BF: Tensor, score_BF: Tensor, step: StepContext) -> Latents:
        mask_BF, cut = batch_topk_mask(score_BF, self.options.k * step.num_tokens, hint=HINT_MARGIN * float(self.cut))
        self._update_threshold(cut, step)
        return Latents.of_mask(mask_BF, f_BF)

    def _update_threshold(self, cut: Tensor, step: StepContext) -> None:
        if not self.training or cut <= 0:
            return
        self.cut.copy_(cut)
        if step.warmed_up and bool(self.averaging):
            window = max(1.0, self.options.threshold_window_share * step.total_steps)
            decay = min(self.options.threshold_decay, 1 - 1 / window)
            self.threshold.mul_(decay).add_((1 - decay) * cut)
        else:
            # Before the average begins, follow the batch, so that an early evaluation is never dense.
            self.threshold.copy_(cut)
            self.averaging.fill_(step.warmed_up)

    def _auxk(
        self,
        crosscoder: Crosscoder,
        x_BX: Tensor,
        f_BF: Tensor,
        score_BF: Tensor,
        residual_BX: Tensor,
        step: StepContext,
    ) -> Tensor:
        """mean over tokens of ‖residual − Σ top dead f·d‖²; no bias, since the residual already has it removed."""
        if step.dead_F is None or not bool(step.dead_F.any()):
            return residual_BX.new_zeros(())
        mean_width = crosscoder.written.width / len(crosscoder.written.sites)
        count = max(1, int(self.options.aux_k_share * mean_width))
        with torch.no_grad():
            dead_D = step.dead_F.nonzero().squeeze(1)
            top = score_BF[:, dead_D].topk(min(count, len(dead_D)), dim=1)
            mask_BF = torch.zeros_like(score_BF, dtype=torch.bool)
            mask_BF.scatter_(1, dead_D[top.indices], top.values > 0)
            latents = Latents.of_mask(mask_BF, f_BF)
        value_N = crosscoder.values(x_BX, latents)
        predicted_BX = crosscoder.decode_blocks(latents, value_N=value_N)
        return step.mean((residual_BX - predicted_BX).square().sum())
