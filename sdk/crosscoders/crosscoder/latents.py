"""Latents of a batch of tokens, kept sparse: N triples (token, latent, value), ordered by token."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import torch
from attrs import evolve, field, frozen
from torch import Tensor

from ..errors import LatentError
from ..kernels import operations


def known_latents(latents: int | Iterable[int], num_latents: int) -> list[int]:
    """The latents that somebody names, as a list; `LatentError` for one that is not there."""
    chosen = [latents] if isinstance(latents, int) else list(latents)
    outside = next((j for j in chosen if not 0 <= j < num_latents), None)
    if outside is not None:
        raise LatentError(f"there is no latent {outside}; they are numbered 0 to {num_latents - 1}")
    return chosen


@frozen(eq=False, slots=False)
class Latents:
    """The active latents of B tokens; everything not listed is zero.

    `token_N` is sorted; within one token the latents are in increasing order.
    """

    token_N: Tensor
    """The token of each entry, int64 in [0, B)."""
    latent_N: Tensor
    """The latent of each entry, int64 in [0, F)."""
    value_N: Tensor
    """The activation f of each entry, not multiplied by any decoder norm."""
    num_tokens: int = field()
    num_latents: int = field()
    leading: tuple[int, ...] = field()
    """The dimensions that the tokens were given in, such as (sequences, positions)."""

    @leading.default
    def _in_one_row(self) -> tuple[int, ...]:
        return (self.num_tokens,)

    @classmethod
    def from_mask(cls, keep_BF: Tensor, f_BF: Tensor) -> Latents:
        """The entries of dense `f_BF` where `keep_BF` is true."""
        token_N, latent_N = keep_BF.nonzero(as_tuple=True)
        return cls(token_N, latent_N, f_BF[token_N, latent_N], f_BF.shape[0], f_BF.shape[1])

    @classmethod
    def concatenate(cls, parts: list[Latents]) -> Latents:
        """Join the latents of consecutive pieces of a batch."""
        starts = [sum(part.num_tokens for part in parts[:i]) for i in range(len(parts))]
        return cls(
            torch.cat([part.token_N + start for part, start in zip(parts, starts, strict=True)]),
            torch.cat([part.latent_N for part in parts]),
            torch.cat([part.value_N for part in parts]),
            sum(part.num_tokens for part in parts),
            parts[0].num_latents,
        )

    def shaped(self, leading: tuple[int, ...]) -> Latents:
        """The same latents, of tokens in these dimensions."""
        return self if leading == self.leading else evolve(self, leading=leading)

    def dense(self) -> Tensor:
        """The dense tensor, zeros included: (…, F) with the leading dimensions of the tokens."""
        f_BF = self.value_N.new_zeros(self.num_tokens, self.num_latents)
        f_BF = f_BF.index_put((self.token_N, self.latent_N), self.value_N)
        return f_BF.reshape(*self.leading, self.num_latents)

    def select(self, keep_N: Tensor) -> Latents:
        """Only the entries where the boolean `keep_N` is true."""
        index_M = keep_N.nonzero().squeeze(1)
        return evolve(
            self, token_N=self.token_N[index_M], latent_N=self.latent_N[index_M], value_N=self.value_N[index_M]
        )

    def inside(self, latents: slice) -> Tensor:
        """Boolean mask (N,) of the entries whose latent is in `latents`."""
        inside_N: Tensor = (self.latent_N >= latents.start) & (self.latent_N < latents.stop)
        return inside_N

    def in_group(self, latents: slice) -> Latents:
        """The entries whose latent is in `latents`, with latents renumbered from 0."""
        if latents.start == 0 and latents.stop == self.num_latents:
            return self
        part = self.select(self.inside(latents))
        return evolve(part, latent_N=part.latent_N - latents.start, num_latents=latents.stop - latents.start)

    @property
    def by_latent(self) -> Tensor:
        """The permutation of the N entries that sorts them by latent, then by token."""
        return self._by_latent[0]

    @property
    def latent_starts_F(self) -> Tensor:
        """The offset at which each latent's entries begin, in the order of `by_latent`."""
        return self._by_latent[1]

    @cached_property
    def _by_latent(self) -> tuple[Tensor, Tensor]:
        return operations(self.latent_N).grouped(self.latent_N, self.num_latents)

    @cached_property
    def token_of_latent_N(self) -> Tensor:
        """The tokens of the entries, in the order of `by_latent`."""
        return self.token_N[self.by_latent]

    @cached_property
    def count_F(self) -> Tensor:
        """The number of tokens on which each latent is active."""
        return operations(self.latent_N).counted(self.latent_N, self.num_latents)

    @cached_property
    def token_starts_B(self) -> Tensor:
        """The offset at which each token's entries begin."""
        counts_B = operations(self.token_N).counted(self.token_N, self.num_tokens)
        return counts_B.cumsum(0) - counts_B

    @property
    def fired_F(self) -> Tensor:
        """Boolean mask of the latents that are active on at least one token."""
        return self.count_F > 0

    @property
    def l0(self) -> float:
        """Mean number of active latents per token."""
        return len(self.latent_N) / max(1, self.num_tokens)
