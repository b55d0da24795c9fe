"""What the kernels need to know of a batch's latents, as a protocol, so that they do not depend on the crosscoder."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Entries(Protocol):
    """N triples (token, latent, value) sorted by token, and the same grouped by latent; `Latents` implements it."""

    @property
    def token_N(self) -> Tensor: ...
    @property
    def latent_N(self) -> Tensor: ...
    @property
    def value_N(self) -> Tensor: ...
    @property
    def num_tokens(self) -> int: ...
    @property
    def num_latents(self) -> int: ...
    @property
    def token_starts_B(self) -> Tensor: ...
    @property
    def by_latent(self) -> Tensor: ...
    @property
    def latent_starts_F(self) -> Tensor: ...
    @property
    def token_of_latent_N(self) -> Tensor: ...
