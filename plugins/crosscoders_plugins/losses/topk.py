"""TopK: keep the k largest scores f_i·Σ_s‖d_i^s‖ of each token (Gao et al. 2024, arXiv 2406.04093)."""

from __future__ import annotations

from attrs import frozen
from torch import Tensor

from crosscoders import Crosscoder, Gate, Latents, StepContext, TopKGate
from crosscoders.authoring import SelectionConfig, SelectionLoss


@frozen(kw_only=True)
class TopKConfig(SelectionConfig):
    """Options of a loss that keeps the largest activations of each token."""


class TopK(SelectionLoss):
    """Loss `topk`."""

    def select(self, crosscoder: Crosscoder, read_BX: Tensor, step: StepContext) -> Latents:
        gate, norm_F = TopKGate(round(self.options.k_at(step))), crosscoder.score_norms()
        pieces = []
        for pre_BF in crosscoder.pre_activation_pieces(read_BX):
            f_BF = pre_BF.relu_()
            pieces.append(Latents.from_mask(gate.keep(f_BF, norm_F), f_BF))
        return Latents.concatenate(pieces)

    def gate(self) -> Gate:
        return TopKGate(self.options.k)
