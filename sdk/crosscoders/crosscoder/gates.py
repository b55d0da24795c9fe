"""Gates: which latents are on at inference. A loss produces one at the end of training, and checkpoints store it.

A gate sees pre-activations and, per latent, the summed decoder norm n, because selection uses the score f·n, which does
not change when a latent's encoder and decoder are rescaled against each other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..errors import CheckpointError


class Gate(nn.Module, ABC):
    """The base class of gates. A gate's buffers are saved with the crosscoder."""

    name: ClassVar[str]

    @abstractmethod
    def keep(self, f_BF: Tensor, norm_F: Tensor) -> Tensor:
        """Boolean (B, F): which of the non-negative activations `f_BF` stay on."""

    def options(self) -> dict[str, Any]:
        """The options, besides the buffers, that `gate_from_config` needs to rebuild this gate."""
        return {}


class ReluGate(Gate):
    """Keeps a latent on wherever its pre-activation is positive (L1)."""

    name = "relu"

    def keep(self, f_BF: Tensor, norm_F: Tensor) -> Tensor:
        return f_BF > 0


class ScoreThresholdGate(Gate):
    """Keeps a latent on where f·Σ_s‖d^s‖ exceeds a threshold (BatchTopK at inference; Minder et al. 2025, §3.2).

    There is one threshold for all latents or, with `num_latents`, one for each.
    """

    name = "score_threshold"
    threshold: Tensor

    def __init__(self, threshold: float = 0.0, *, num_latents: int = 0) -> None:
        super().__init__()
        value = torch.tensor(threshold, dtype=torch.float32)
        self.register_buffer("threshold", value.repeat(num_latents) if num_latents else value)

    def options(self) -> dict[str, Any]:
        return {"num_latents": len(self.threshold)} if self.threshold.ndim else {}

    def keep(self, f_BF: Tensor, norm_F: Tensor) -> Tensor:
        return (f_BF > 0) & (f_BF * norm_F > self.threshold)


class JumpReluGate(Gate):
    """Keeps a latent on where f exceeds its own threshold (Rajamanoharan et al. 2024)."""

    name = "jumprelu"
    threshold_F: Tensor

    def __init__(self, num_latents: int) -> None:
        super().__init__()
        self.register_buffer("threshold_F", torch.zeros(num_latents))

    def keep(self, f_BF: Tensor, norm_F: Tensor) -> Tensor:
        return (f_BF > 0) & (f_BF > self.threshold_F)

    def options(self) -> dict[str, Any]:
        return {"num_latents": len(self.threshold_F)}


class TopKGate(Gate):
    """Keeps the k latents with the largest scores on for each token."""

    name = "topk"

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def keep(self, f_BF: Tensor, norm_F: Tensor) -> Tensor:
        score_BF = f_BF * norm_F
        largest_BK = score_BF.topk(min(self.k, f_BF.shape[1]), dim=1).indices
        return torch.zeros_like(f_BF, dtype=torch.bool).scatter_(1, largest_BK, True) & (f_BF > 0)

    def options(self) -> dict[str, Any]:
        return {"k": self.k}


GATES: dict[str, type[Gate]] = {gate.name: gate for gate in (ReluGate, ScoreThresholdGate, JumpReluGate, TopKGate)}


def gate_from_config(description: dict[str, Any]) -> Gate:
    """Build a gate from `{"name": ..., **options}`; its buffers are loaded afterwards."""
    options = dict(description)
    name = options.pop("name", None)
    if name not in GATES:
        raise CheckpointError(f"no gate is called '{name}'; available: {', '.join(GATES)}")
    try:
        return GATES[name](**options)
    except TypeError as error:
        raise CheckpointError(f"gate '{name}' cannot be made with {options}: {error}") from error
