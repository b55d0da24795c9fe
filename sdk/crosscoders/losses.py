"""The interface of losses: what they get at each step and what they return."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from attrs import field, frozen
from torch import Tensor, nn

from .crosscoder import Crosscoder
from .gates import Gate
from .latents import Latents


@frozen(kw_only=True)
class StepContext:
    """What a loss may know about the step it is in."""

    step: int
    """Steps done before this one."""
    total_steps: int
    warmed_up: bool
    """Whether the learning rate's warm-up is over."""
    num_tokens: int
    """Tokens of the global batch, over all processes."""
    num_processes: int = 1
    dead_F: Tensor | None = field(default=None, eq=False)
    """Latents that have not been selected for the run's dead window; None where nobody counts."""

    @property
    def progress(self) -> float:
        """Share of the run that is done, in [0, 1)."""
        return self.step / self.total_steps

    def mean(self, total: Tensor) -> Tensor:
        """The mean over the tokens of the global batch, from a sum over this process's tokens.

        Processes average their gradients, so the sum is scaled up by their number first.
        """
        return total * (self.num_processes / self.num_tokens)


@frozen(kw_only=True, eq=False)
class LossOutput:
    """Named terms, which the runner sums, and what it needs for its metrics."""

    terms: dict[str, Tensor]
    """Scalars with gradient, each a mean over the tokens of the global batch."""
    fired_F: Tensor
    """Boolean: latents active on some token of this process."""
    num_active: Tensor
    """Number of active (token, latent) pairs on this process."""
    residual_BX: Tensor
    """Target minus reconstruction, normalised, detached."""

    @classmethod
    def of_dense(cls, terms: dict[str, Tensor], f_BF: Tensor, residual_BX: Tensor) -> LossOutput:
        """From dense activations."""
        active_BF = f_BF.detach() > 0
        return cls(
            terms=terms,
            fired_F=active_BF.any(dim=0),
            num_active=active_BF.count_nonzero(),
            residual_BX=residual_BX.detach(),
        )

    @classmethod
    def of_sparse(cls, terms: dict[str, Tensor], latents: Latents, residual_BX: Tensor) -> LossOutput:
        """From sparse latents."""
        return cls(
            terms=terms,
            fired_F=latents.fired_F,
            num_active=torch.tensor(len(latents.latent_N), device=residual_BX.device),
            residual_BX=residual_BX.detach(),
        )


class Loss(nn.Module, ABC):
    """A sparsity objective. Its buffers (thresholds, counters) are saved when a run is saved."""

    decoder_norm: float
    """Norm of each latent's decoder row at each site when training starts."""

    @abstractmethod
    def forward(self, crosscoder: Crosscoder, x_BX: Tensor, step: StepContext) -> LossOutput:
        """Terms for normalised activations `x_BX`, this process's part of the global batch."""

    @abstractmethod
    def gate(self) -> Gate:
        """The gate for inference as training stands now."""
