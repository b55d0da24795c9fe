"""How often and how strongly each latent is active on a study's tokens."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from attrs import frozen
from torch import Tensor

from ..devices import accumulator, precise
from ..errors import AnalysisError
from ..reports import Table
from .passes import StudyBatch


@frozen(eq=False)
class Census:
    """Sums over one pass of the tokens that count."""

    firings_F: Tensor
    """Tokens on which each latent is active, int64."""
    sum_F: Tensor
    """Sum of its activations."""
    square_F: Tensor
    """Sum of their squares."""
    max_F: Tensor
    """Its largest activation."""
    num_tokens: int

    @property
    def silent(self) -> list[int]:
        """Latents active on no token."""
        silent: list[int] = (self.firings_F == 0).nonzero().squeeze(1).tolist()
        return silent

    def table(self) -> Table:
        """`latent`, `density`, `firings`, `mean_active` (mean activation where active), `max`, densest first."""
        order = self.firings_F.argsort(descending=True, stable=True)
        density = precise(self.firings_F) / max(1, self.num_tokens)
        mean = self.sum_F / self.firings_F.clamp_min(1)
        columns = (order, density[order], self.firings_F[order], mean[order], self.max_F[order])
        return Table(
            title="Density",
            columns=("latent", "density", "firings", "mean_active", "max"),
            rows=zip(*(column.tolist() for column in columns), strict=True),
            note=f"Shares of {self.num_tokens} tokens, with the inference gate; activations are unscaled.",
        )


@torch.no_grad()
def census(batches: Iterable[StudyBatch], num_latents: int) -> Census:
    """Count over `batches`."""
    firings_F = torch.zeros(num_latents, dtype=torch.int64)
    sum_F, square_F = torch.zeros(2, num_latents, **accumulator(firings_F.device))
    max_F = torch.zeros(num_latents)
    num_tokens = 0
    for batch in batches:
        latents = batch.latents
        num_tokens += latents.num_tokens
        latent_N, value_N = latents.latent_N.cpu(), latents.value_N.cpu()
        firings_F += torch.bincount(latent_N, minlength=num_latents)
        sum_F.index_add_(0, latent_N, precise(value_N))
        square_F.index_add_(0, latent_N, precise(value_N).square())
        max_F.scatter_reduce_(0, latent_N, value_N, "amax")
    if not num_tokens:
        raise AnalysisError("the study has no tokens that count")
    return Census(firings_F, sum_F, square_F, max_F, num_tokens)
