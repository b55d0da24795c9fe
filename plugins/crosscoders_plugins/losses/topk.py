"""TopK: of each token keep the k largest f_i·Σ_s‖d_i^s‖ (Gao et al. 2024, arXiv 2406.04093)."""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Tensor

from crosscoders import Crosscoder, Gate, StepContext, TopKGate

from .selection import SelectionConfig, SelectionLoss


@frozen(kw_only=True)
class TopKConfig(SelectionConfig):
    """Sparsity by keeping the largest activations of each token."""


class TopK(SelectionLoss):
    """Loss `topk`."""

    def select(self, f_BF: Tensor, score_BF: Tensor, step: StepContext, crosscoder: Crosscoder) -> Tensor:
        k = min(round(self.options.k_at(step)), f_BF.shape[1])
        top = score_BF.topk(k, dim=1)
        return torch.zeros_like(f_BF, dtype=torch.bool).scatter_(1, top.indices, top.values > 0)

    def gate(self) -> Gate:
        return TopKGate(self.options.k)
