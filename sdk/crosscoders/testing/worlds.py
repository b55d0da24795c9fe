"""Planted worlds: synthetic activations whose features are known, as pure functions of token ids.

A token id is the seed of one sample, by a counter-based hash. So any part of a world can be made again from its ids
alone, models that read the same ids see the same concepts, and no data set is stored.
"""

from __future__ import annotations

import math
from functools import cached_property

import torch
from attrs import field, frozen
from attrs.validators import ge
from torch import Tensor

SHARED, WEAK, SHIFTED, ONLY_A, ONLY_B = "shared", "weak_in_a", "shifted", "only_a", "only_b"


@frozen(kw_only=True)
class DiffWorldConfig:
    """Two models with `width` dimensions whose concepts differ in known ways; the defaults are the toy of the docs."""

    width: int = field(default=48, validator=ge(2))
    num_shared: int = field(default=60, validator=ge(0))
    """Concepts in both models, directions at cosine `shared_cosine`."""
    num_weak: int = field(default=16, validator=ge(0))
    """Concepts whose strength in A is only 0.25 to 0.6 of that in B."""
    num_shifted: int = field(default=12, validator=ge(0))
    """Concepts that fire in both models at 60 % of occasions, only in A at 20 %, only in B at 20 %."""
    num_only_a: int = field(default=8, validator=ge(0))
    num_only_b: int = field(default=8, validator=ge(0))
    shared_cosine: float = 0.95
    min_rate: float = 0.005
    """Firing rates are log-uniform between this"""
    max_rate: float = 0.05
    """and this."""
    noise: float = field(default=0.01, validator=ge(0.0))
    """Standard deviation of the noise in each dimension."""
    copy: bool = False
    """Make B an exact copy of A, noise included: the null, in which nothing differs."""
    copy_noise: float = field(default=0.0, validator=ge(0.0))
    """Extra noise on a copy."""
    seed: int = 0


@frozen(slots=False)
class DiffWorld:
    """A pair of models, "a" and "b", with planted concepts."""

    config: DiffWorldConfig

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """What each concept is."""
        c = self.config
        counts = ((SHARED, c.num_shared), (WEAK, c.num_weak), (SHIFTED, c.num_shifted), (ONLY_A, c.num_only_a),
                  (ONLY_B, c.num_only_b))  # fmt: skip
        return tuple(kind for kind, count in counts for _ in range(count))

    @cached_property
    def rates_C(self) -> Tensor:
        """Firing rate of each concept."""
        c = self.config
        u = torch.rand(len(self.kinds), generator=self._generator(1))
        return c.min_rate * (c.max_rate / c.min_rate) ** u

    @cached_property
    def directions(self) -> dict[str, Tensor]:
        """Unit directions of the concepts in each model, (C, D); zero rows where a model lacks the concept."""
        c = self.config
        drawn = torch.randn(2, len(self.kinds), c.width, generator=self._generator(2))
        a = drawn[0] / drawn[0].norm(dim=1, keepdim=True)
        other = drawn[1] - (drawn[1] * a).sum(1, keepdim=True) * a
        other = other / other.norm(dim=1, keepdim=True)
        b = c.shared_cosine * a + math.sqrt(1 - c.shared_cosine**2) * other
        in_a, in_b = self._present(ONLY_B), self._present(ONLY_A)
        return {"a": a * in_a, "b": a * in_a if c.copy else b * in_b}

    @cached_property
    def strength_in_a_C(self) -> Tensor:
        """Strength of each concept in A relative to B: below 1 for weak ones."""
        u = torch.rand(len(self.kinds), generator=self._generator(3))
        weak = torch.tensor([kind == WEAK for kind in self.kinds])
        return torch.where(weak, 0.25 + 0.35 * u, torch.ones_like(u))

    def codes(self, ids_B: Tensor) -> dict[str, Tensor]:
        """Strength of each concept in each model's activations, (B, C)."""
        fires = uniform(ids_B, len(self.kinds), stream=1) < self.rates_C
        strength_BC = torch.where(fires, 0.5 + uniform(ids_B, len(self.kinds), stream=2), 0.0)
        lot_BC = uniform(ids_B, len(self.kinds), stream=3)
        shifted = torch.tensor([kind == SHIFTED for kind in self.kinds])
        a = strength_BC * ~(shifted & (lot_BC >= 0.8)) * self.strength_in_a_C
        b = a if self.config.copy else strength_BC * ~(shifted & (lot_BC >= 0.6) & (lot_BC < 0.8))
        return {"a": a * self._present(ONLY_B).T, "b": b * (1 if self.config.copy else self._present(ONLY_A).T)}

    def activations(self, model: str, ids_B: Tensor) -> Tensor:
        """Activations of model "a" or "b" for token ids, (B, D)."""
        c = self.config
        x_BD = self.codes(ids_B)[model] @ self.directions[model]
        own_noise = 4 if model == "a" or c.copy else 5
        x_BD = x_BD + c.noise * normal(ids_B, c.width, stream=own_noise)
        if c.copy and model == "b" and c.copy_noise:
            x_BD = x_BD + c.copy_noise * normal(ids_B, c.width, stream=6)
        return x_BD

    def _present(self, absent: str) -> Tensor:
        return torch.tensor([float(kind != absent) for kind in self.kinds])[:, None]

    def _generator(self, stream: int) -> torch.Generator:
        return torch.Generator().manual_seed(self.config.seed * 16 + stream)


def uniform(ids_B: Tensor, count: int, *, stream: int) -> Tensor:
    """`count` numbers in [0, 1) for each id, (B, count): the same for the same id and stream on every machine."""
    index = torch.arange(count, device=ids_B.device, dtype=torch.int64) + stream * 1_000_003
    bits = _mix(_mix(ids_B.to(torch.int64))[:, None] + _mix(index)[None, :])
    return ((bits >> 40) & 0xFFFFFF).float() / 2**24


def normal(ids_B: Tensor, count: int, *, stream: int) -> Tensor:
    """Standard normal numbers for each id, (B, count), by Box and Muller."""
    half = -(-count // 2)
    u = uniform(ids_B, 2 * half, stream=stream)
    radius = (-2 * (u[:, :half] + 2**-25).log()).sqrt()
    angle = 2 * math.pi * u[:, half:]
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :count]


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser on wrapping int64; shifts are made logical by masking."""
    z = z + -7046029254386353131
    z = (z ^ ((z >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    z = (z ^ ((z >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return z ^ ((z >> 31) & 0x1FFFFFFFF)
