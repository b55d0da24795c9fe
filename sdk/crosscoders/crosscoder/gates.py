"""Gates: which latents are on at inference. A loss produces one at the end of training, and checkpoints store it.

A gate sees pre-activations and, per latent, the summed decoder norm n, because selection uses the score f·n, which does
not change when a latent's encoder and decoder are rescaled against each other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
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
    """The k largest scores of each token, or the k largest activations, among all latents or within each group.

    `by` is "score" (f·Σ_s‖d^s‖, ours) or "activation" (f, that of most public TopK files); `group_sizes` divides the
    latents, in order, into groups that each keep k (a transcoder for each layer).
    """

    name = "topk"

    def __init__(self, k: int, *, by: str = "score", group_sizes: Sequence[int] = ()) -> None:
        super().__init__()
        if by not in ("score", "activation"):
            raise CheckpointError(f"a topk gate ranks by 'score' or by 'activation', not by '{by}'")
        self.k, self.by, self.group_sizes = k, by, tuple(group_sizes)

    def keep(self, f_BF: Tensor, norm_F: Tensor) -> Tensor:
        rank_BF = f_BF * norm_F if self.by == "score" else f_BF
        keep_BF = torch.zeros_like(f_BF, dtype=torch.bool)
        parts = list(self.group_sizes) or [f_BF.shape[1]]
        for rank_BG, keep_BG in zip(torch.split(rank_BF, parts, 1), torch.split(keep_BF, parts, 1), strict=True):
            largest_BK = rank_BG.topk(min(self.k, rank_BG.shape[1]), dim=1).indices
            keep_BG.scatter_(1, largest_BK, True)
        return keep_BF & (f_BF > 0)

    def options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"k": self.k}
        if self.by != "score":
            options["by"] = self.by
        if self.group_sizes:
            options["group_sizes"] = list(self.group_sizes)
        return options


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
