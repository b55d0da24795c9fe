"""Diff worlds: two models whose concepts differ in known ways."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from attrs import field, frozen
from attrs.validators import and_, ge, le
from torch import Tensor

from ...converters import as_tuple
from ...errors import ConfigError
from .hashing import normal, uniform

SHARED, WEAK, SHIFTED, ONLY_A, ONLY_B = "shared", "weak_in_a", "shifted", "only_a", "only_b"


@frozen(kw_only=True)
class DiffWorldConfig:
    """Two models of `width` dimensions whose concepts differ in known ways; the defaults are those of the docs."""

    width: int = field(default=48, validator=ge(2))
    num_shared: int = field(default=60, validator=ge(0))
    """Number of concepts in both models, whose two directions have cosine `shared_cosine`."""
    num_weak: int = field(default=16, validator=ge(0))
    """Number of concepts that are weaker in A than in B."""
    num_shifted: int = field(default=12, validator=ge(0))
    """Number of concepts that fire in both models on 60 % of occasions, only in A on 20 %, and only in B on 20 %."""
    num_only_a: int = field(default=8, validator=ge(0))
    num_only_b: int = field(default=8, validator=ge(0))
    shared_cosine: float = field(default=0.95, validator=and_(ge(-1.0), le(1.0)))
    """Cosine between a concept's directions in A and in B."""
    min_shared_cosine: float = field(default=1.0, validator=and_(ge(-1.0), le(1.0)))
    """If smaller than `shared_cosine`, each concept has a cosine of its own, uniform between the two values."""
    weak_strength: tuple[float, float] = field(default=(0.25, 0.6), converter=as_tuple)
    """Range of the strength in A, relative to B, of the concepts that are weak in A."""
    min_rate: float = 0.005
    """Smallest firing rate of a concept; rates are log-uniform between `min_rate` and `max_rate`."""
    max_rate: float = 0.05
    """Largest firing rate of a concept; rates are log-uniform between `min_rate` and `max_rate`."""
    exclusive_rate: float = field(default=0.0, validator=and_(ge(0.0), le(1.0)))
    """Firing rate of concepts in only one model; 0 draws it like the others'. A small rate makes rare features."""
    width_b: int = field(default=0, validator=ge(0))
    """If not 0, map B's activations into a space of this width by a random affine map, like another architecture."""
    noise: float = field(default=0.01, validator=ge(0.0))
    """Standard deviation of the noise in each dimension."""
    copy: bool = False
    """Make B an exact copy of A, noise included: the null case, in which nothing differs."""
    copy_noise: float = field(default=0.0, validator=ge(0.0))
    """Standard deviation of additional noise on a copy."""
    seed: int = 0

    def __attrs_post_init__(self) -> None:
        if self.copy and self.width_b:
            raise ConfigError("a copy has the width of its original: width_b cannot be set with copy")

    def width_of(self, model: str) -> int:
        """Width of the activations of model "a" or "b"."""
        return self.width_b if model == "b" and self.width_b else self.width


@frozen(slots=False)
class DiffWorld:
    """A pair of models, "a" and "b", with planted concepts."""

    config: DiffWorldConfig

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """The kind of each concept."""
        c = self.config
        counts = (
            (SHARED, c.num_shared),
            (WEAK, c.num_weak),
            (SHIFTED, c.num_shifted),
            (ONLY_A, c.num_only_a),
            (ONLY_B, c.num_only_b),
        )
        return tuple(kind for kind, count in counts for _ in range(count))

    @cached_property
    def rates_C(self) -> Tensor:
        """Firing rate of each concept."""
        c = self.config
        u = torch.rand(len(self.kinds), generator=self._generator(1))
        rates_C = c.min_rate * (c.max_rate / c.min_rate) ** u
        if c.exclusive_rate:
            rates_C[torch.tensor([kind in (ONLY_A, ONLY_B) for kind in self.kinds])] = c.exclusive_rate
        return rates_C

    @cached_property
    def cosine_C(self) -> Tensor:
        """Cosine between each concept's directions in A and in B, before any affine map."""
        c = self.config
        low = min(c.min_shared_cosine, c.shared_cosine)
        return low + (c.shared_cosine - low) * torch.rand(len(self.kinds), generator=self._generator(4))

    @cached_property
    def affine(self) -> tuple[Tensor, Tensor]:
        """The map from the common space to B's own space, (D, D of b), and the shift, (D of b)."""
        c = self.config
        generator = self._generator(5)
        matrix = torch.randn(c.width, c.width_b, generator=generator) / math.sqrt(c.width_b)
        return matrix, 0.1 * torch.randn(c.width_b, generator=generator)

    @cached_property
    def directions(self) -> dict[str, Tensor]:
        """Unit directions of the concepts in each model, (C, D); zero rows where a model lacks the concept."""
        c = self.config
        drawn = torch.randn(2, len(self.kinds), c.width, generator=self._generator(2))
        a = drawn[0] / drawn[0].norm(dim=1, keepdim=True)
        other = drawn[1] - (drawn[1] * a).sum(1, keepdim=True) * a
        other = other / other.norm(dim=1, keepdim=True)
        cosine = self.cosine_C[:, None]
        b = cosine * a + (1 - cosine.square()).sqrt() * other
        in_a, in_b = self._present(ONLY_B), self._present(ONLY_A)
        if c.width_b:
            b = torch.nn.functional.normalize(b @ self.affine[0], dim=1)
        return {"a": a * in_a, "b": a * in_a if c.copy else b * in_b}

    @cached_property
    def strength_in_a_C(self) -> Tensor:
        """Strength of each concept in A relative to B: below 1 for weak ones."""
        u = torch.rand(len(self.kinds), generator=self._generator(3))
        weak = torch.tensor([kind == WEAK for kind in self.kinds])
        low, high = self.config.weak_strength
        return torch.where(weak, low + (high - low) * u, torch.ones_like(u))

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
        if c.width_b and model == "b":
            x_BD = x_BD + self.affine[1]
        own_noise = 4 if model == "a" or c.copy else 5
        x_BD = x_BD + c.noise * normal(ids_B, c.width_of(model), stream=own_noise)
        if c.copy and model == "b" and c.copy_noise:
            x_BD = x_BD + c.copy_noise * normal(ids_B, c.width, stream=6)
        return x_BD

    def _present(self, absent: str) -> Tensor:
        return torch.tensor([float(kind != absent) for kind in self.kinds])[:, None]

    def _generator(self, stream: int) -> torch.Generator:
        return torch.Generator().manual_seed(self.config.seed * 16 + stream)
