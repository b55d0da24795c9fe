"""Diff worlds: two models whose concepts differ in known ways."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from attrs import field, frozen
from attrs.validators import and_, ge, in_, le, lt
from torch import Tensor

from ...converters import as_tuple
from ...errors import ConfigError
from .concepts import firing, zipf_rates
from .hashing import normal, uniform

SHARED, WEAK, SHIFTED, ONLY_A, ONLY_B = "shared", "weak_in_a", "shifted", "only_a", "only_b"
WEAK_B, ONLY_C, NOT_C = "weak_in_b", "only_c", "not_c"


@frozen(kw_only=True)
class DiffWorldConfig:
    """Two models of `width` dimensions whose concepts differ in known ways; the defaults are those of the docs."""

    width: int = field(default=48, validator=ge(2))
    """Dimensions of each model's activations."""
    num_shared: int = field(default=60, validator=ge(0))
    """Number of concepts in both models, whose two directions have cosine `shared_cosine`."""
    num_weak: int = field(default=16, validator=ge(0))
    """Number of concepts that are weaker in A than in B."""
    num_shifted: int = field(default=12, validator=ge(0))
    """Number of concepts that fire in both models on 60 % of occasions, only in A on 20 %, and only in B on 20 %."""
    num_only_a: int = field(default=8, validator=ge(0))
    """Number of concepts that only A has."""
    num_only_b: int = field(default=8, validator=ge(0))
    """Number of concepts that only B has."""
    num_weak_b: int = field(default=0, validator=ge(0))
    """Concepts that are weaker in B than in A."""
    num_models: int = field(default=2, validator=in_((2, 3)))
    """With three models there is a model "c", in which shared, weak and shifted concepts are as in B."""
    num_only_c: int = field(default=0, validator=ge(0))
    """Concepts that only C has."""
    num_not_c: int = field(default=0, validator=ge(0))
    """Concepts that A and B have and C lacks."""
    shared_cosine: float = field(default=0.95, validator=and_(ge(-1.0), le(1.0)))
    """Cosine between a concept's directions in A and in B."""
    min_shared_cosine: float = field(default=1.0, validator=and_(ge(-1.0), le(1.0)))
    """If smaller than `shared_cosine`, each concept has a cosine of its own, uniform between the two values."""
    rotated: bool = False
    """Turn B (and C, in another way) by one common random rotation: every concept is there under another direction."""
    strength_range: float = field(default=1.0, validator=ge(1.0))
    """Largest over smallest mean strength of a concept, log-uniform around 1; 20 gives strengths of 0.22 to 4.5."""
    weak_strength: tuple[float, float] = field(default=(0.25, 0.6), converter=as_tuple)
    """Range of the strength in A, relative to B, of concepts that are weak there, or the other way round."""
    min_rate: float = 0.005
    """Smallest firing rate of a concept; rates are log-uniform between `min_rate` and `max_rate`."""
    max_rate: float = 0.05
    """Largest firing rate of a concept; rates are log-uniform between `min_rate` and `max_rate`."""
    exclusive_rate: float = field(default=0.0, validator=and_(ge(0.0), le(1.0)))
    """Firing rate of concepts in one model only; 0 draws it like the others'. Small ones make rare features."""
    zipf: float = field(default=0.0, validator=ge(0.0))
    """Where positive, rates are not log-uniform: the concept of rank r has `max_rate` / r^`zipf`, at least
    `min_rate`."""
    hierarchy_share: float = field(default=0.0, validator=and_(ge(0.0), le(1.0)))
    """Share of all concepts that are children: each fires only where its parent, a shared concept, does."""
    child_rate: tuple[float, float] = field(default=(0.2, 0.6), converter=as_tuple)
    """Range of the rate at which a child fires where its parent does."""
    document_tokens: int = field(default=100, validator=ge(1))
    """Length of documents: ids from a multiple of it on belong to one document, for topics and document effects."""
    num_topics: int = field(default=0, validator=ge(0))
    """Each document has a topic and each concept belongs to one; 0 has no topics."""
    topic_share: float = field(default=0.5, validator=and_(ge(0.0), lt(1.0)))
    """Share of a concept's firings that lies in documents of its topic for that reason; the others are spread
    evenly."""
    document_effect: float = field(default=0.0, validator=ge(0.0))
    """Standard deviation of the log of the factor by which each document changes the rate of each concept."""
    width_b: int = field(default=0, validator=ge(0))
    """If not 0, map B's activations into a space of this width by a random affine map, like another architecture."""
    noise: float = field(default=0.01, validator=ge(0.0))
    """Standard deviation of the noise in each dimension."""
    noise_anisotropy: float = field(default=1.0, validator=ge(1.0))
    """Largest over smallest standard deviation of the noise, along random axes of each model, around `noise`."""
    mean_norm: float = field(default=0.0, validator=ge(0.0))
    """Norm of a constant vector added to each model's activations, in a random direction of each."""
    copy: bool = False
    """Make B an exact copy of A, noise included: the null case, in which nothing differs."""
    copy_noise: float = field(default=0.0, validator=ge(0.0))
    """Standard deviation of additional noise on a copy."""
    seed: int = 0
    """Decides concepts, directions, and where they fire."""

    def __attrs_post_init__(self) -> None:
        if self.copy and self.width_b:
            raise ConfigError("a copy has the width of its original: width_b cannot be set with copy")
        if self.num_models == 2 and (self.num_only_c or self.num_not_c):
            raise ConfigError("num_only_c and num_not_c need num_models = 3")

    @property
    def models(self) -> str:
        """The models' letters: "ab" or "abc"."""
        return "abc"[: self.num_models]

    def width_of(self, model: str) -> int:
        """Width of the activations of model "a" or "b"."""
        return self.width_b if model == "b" and self.width_b else self.width


@frozen(slots=False)
class DiffWorld:
    """Models "a" and "b", or also "c", with planted concepts."""

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
            (WEAK_B, c.num_weak_b),
            (ONLY_C, c.num_only_c),
            (NOT_C, c.num_not_c),
        )
        return tuple(kind for kind, count in counts for _ in range(count))

    @cached_property
    def rates_C(self) -> Tensor:
        """Firing rate of each concept."""
        c = self.config
        u = torch.rand(len(self.kinds), generator=self._generator(1))
        rates_C = (
            zipf_rates(u, c.max_rate, c.min_rate, c.zipf) if c.zipf else c.min_rate * (c.max_rate / c.min_rate) ** u
        )
        if c.exclusive_rate:
            rates_C[torch.tensor([kind.startswith("only") for kind in self.kinds])] = c.exclusive_rate
        parent_C, child_rate_C = self.parents
        return torch.where(parent_C >= 0, rates_C[parent_C] * child_rate_C, rates_C)

    @cached_property
    def parents(self) -> tuple[Tensor, Tensor]:
        """For each concept the number of its parent, or −1, and the rate at which it fires where the parent does."""
        c = self.config
        generator = self._generator(6)
        order = torch.randperm(len(self.kinds), generator=generator).tolist()
        children = set(order[: round(c.hierarchy_share * len(self.kinds))])
        possible = [i for i, kind in enumerate(self.kinds) if kind == SHARED and i not in children]
        parent_C = torch.full((len(self.kinds),), -1)
        if possible:
            drawn = torch.randint(len(possible), (len(self.kinds),), generator=generator).tolist()
            for child in sorted(children):
                parent_C[child] = possible[drawn[child]]
        low, high = c.child_rate
        return parent_C, low + (high - low) * torch.rand(len(self.kinds), generator=generator)

    @cached_property
    def topic_C(self) -> Tensor:
        """The topic that each concept belongs to."""
        return torch.randint(max(1, self.config.num_topics), (len(self.kinds),), generator=self._generator(7))

    @cached_property
    def strength_C(self) -> Tensor:
        """Mean strength of each concept where it fires, before it is weakened in one model."""
        u = torch.rand(len(self.kinds), generator=self._generator(8))
        strength_C: Tensor = torch.as_tensor(self.config.strength_range) ** (u - 0.5)
        return strength_C

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

    def rotation(self, model: str) -> Tensor:
        """The orthogonal map that the directions of "b" or "c" go through where the world is rotated, (D, D)."""
        generator = self._generator(9 if model == "b" else 10)
        axes_DD: Tensor = torch.linalg.qr(torch.randn(self.config.width, self.config.width, generator=generator))[0]
        return axes_DD

    @cached_property
    def directions(self) -> dict[str, Tensor]:
        """Unit directions of the concepts in each model, (C, D); zero rows where a model lacks the concept."""
        c = self.config
        drawn = torch.randn(2, len(self.kinds), c.width, generator=self._generator(2))
        a = drawn[0] / drawn[0].norm(dim=1, keepdim=True)
        cosine = self.cosine_C[:, None]

        def turned(towards: Tensor) -> Tensor:
            other = towards - (towards * a).sum(1, keepdim=True) * a
            unit_CD: Tensor = cosine * a + (1 - cosine.square()).sqrt() * (other / other.norm(dim=1, keepdim=True))
            return unit_CD

        b = a if c.copy else turned(drawn[1])
        if c.rotated:
            b = b @ self.rotation("b")
        if c.width_b:
            b = torch.nn.functional.normalize(b @ self.affine[0], dim=1)
        found = {"a": a * self._present("a"), "b": b * self._present("a" if c.copy else "b")}
        if c.num_models == 3:
            third = turned(torch.randn(len(self.kinds), c.width, generator=self._generator(11)))
            found["c"] = (third @ self.rotation("c") if c.rotated else third) * self._present("c")
        return found

    @cached_property
    def strength_in_a_C(self) -> Tensor:
        """Strength of each concept in A relative to B: below 1 for those weak in A."""
        return self._weakened(WEAK)

    def codes(self, ids_B: Tensor) -> dict[str, Tensor]:
        """Strength of each concept in each model's activations, (B, C)."""
        c = self.config
        fires = firing(
            ids_B, self.rates_C, parents=self.parents, topic_C=self.topic_C, num_topics=c.num_topics,
            topic_share=c.topic_share, document_effect=c.document_effect, document_tokens=c.document_tokens,
        )  # fmt: skip
        strength_BC = torch.where(fires, 0.5 + uniform(ids_B, len(self.kinds), stream=2), 0.0) * self.strength_C
        lot_BC = uniform(ids_B, len(self.kinds), stream=3)
        shifted = torch.tensor([kind == SHIFTED for kind in self.kinds])
        a = strength_BC * ~(shifted & (lot_BC >= 0.8)) * self.strength_in_a_C
        b = strength_BC * ~(shifted & (lot_BC >= 0.6) & (lot_BC < 0.8)) * self._weakened(WEAK_B)
        found = {"a": a * self._present("a").T, "b": b * self._present("b").T}
        if c.copy:
            found["b"] = found["a"]
        if c.num_models == 3:
            found["c"] = b * self._present("c").T
        return found

    def activations(self, model: str, ids_B: Tensor) -> Tensor:
        """Activations of model "a", "b" or "c" for token ids, (B, D)."""
        c = self.config
        source = "a" if c.copy and model == "b" else model
        x_BD = self.codes(ids_B)[model] @ self.directions[model]
        if c.width_b and model == "b":
            x_BD = x_BD + self.affine[1]
        noise_BD = normal(ids_B, c.width_of(model), stream={"a": 4, "b": 5, "c": 7}[source])
        if c.noise_anisotropy > 1:
            noise_BD = noise_BD @ self._noise_map(source)
        x_BD = x_BD + c.noise * noise_BD
        if c.mean_norm:
            x_BD = x_BD + self._mean(source)
        if c.copy and model == "b" and c.copy_noise:
            x_BD = x_BD + c.copy_noise * normal(ids_B, c.width, stream=6)
        return x_BD

    def _noise_map(self, model: str) -> Tensor:
        width = self.config.width_of(model)
        generator = self._generator({"a": 12, "b": 13, "c": 14}[model])
        axes = torch.linalg.qr(torch.randn(width, width, generator=generator))[0]
        spread: Tensor = self.config.noise_anisotropy ** torch.linspace(-0.5, 0.5, width)[:, None] * axes
        return spread

    def _mean(self, model: str) -> Tensor:
        drawn = torch.randn(3, max(self.config.width, self.config.width_b), generator=self._generator(15))
        mine = drawn["abc".index(model), : self.config.width_of(model)]
        mean_D: Tensor = self.config.mean_norm * mine / mine.norm()
        return mean_D

    def _weakened(self, weak_kind: str) -> Tensor:
        u = torch.rand(len(self.kinds), generator=self._generator(3))
        weak = torch.tensor([kind == weak_kind for kind in self.kinds])
        low, high = self.config.weak_strength
        return torch.where(weak, low + (high - low) * u, torch.ones_like(u))

    def _present(self, model: str) -> Tensor:
        lacking = {ONLY_A, ONLY_B, ONLY_C} - {f"only_{model}"} | ({NOT_C} if model == "c" else set())
        return torch.tensor([float(kind not in lacking) for kind in self.kinds])[:, None]

    def _generator(self, stream: int) -> torch.Generator:
        return torch.Generator().manual_seed(self.config.seed * 16 + stream)
