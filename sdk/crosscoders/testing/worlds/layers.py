"""Layer worlds: one model whose features live on windows of its layers, drifting and swelling from layer to layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import torch
from attrs import field, frozen
from attrs.validators import and_, ge, gt, in_, le
from torch import Tensor

from ...errors import ConfigError
from .hashing import normal, uniform


@frozen(kw_only=True)
class LayerWorldConfig:
    """A model of `num_layers` layers; the defaults are those of the docs.

    A largest span of 1 is the control without persistence, in which nothing is shared between layers.
    """

    num_layers: int = field(default=6, validator=ge(1))
    """Number of layers of the model."""
    width: int = field(default=32, validator=ge(2))
    """Dimensions of the activations of each layer."""
    num_features: int = field(default=96, validator=ge(1))
    """Number of features in all."""
    min_span: int = field(default=1, validator=ge(1))
    """Smallest number of layers that a feature lives on."""
    max_span: int = field(default=0, validator=ge(0))
    """Largest number of layers that a feature lives on; 0 means all layers."""
    drift: float = field(default=0.95, validator=and_(ge(-1.0), le(1.0)))
    """Cosine of a feature's directions at neighbouring layers."""
    profile: str = field(default="flat", validator=in_(("flat", "hump")))
    """Strength of a feature over its window: `flat`, or a `hump` that rises from 0.4 to 1 in the middle and falls."""
    min_rate: float = field(default=0.005, validator=gt(0.0))
    """Smallest firing rate of a feature; rates are log-uniform between `min_rate` and `max_rate`."""
    max_rate: float = field(default=0.05, validator=and_(gt(0.0), le(1.0)))
    """Largest firing rate of a feature; rates are log-uniform between `min_rate` and `max_rate`."""
    noise: float = field(default=0.01, validator=ge(0.0))
    """Standard deviation of the noise in each dimension."""
    seed: int = 0
    """Decides features, directions, and where they fire."""

    def __attrs_post_init__(self) -> None:
        if not self.min_span <= (self.max_span or self.num_layers) <= self.num_layers:
            raise ConfigError(
                f"spans from {self.min_span} to {self.max_span or self.num_layers} do not fit {self.num_layers} layers"
            )


@frozen(slots=False)
class LayerWorld:
    """A planted model with points `layers.{i}`, the residual stream, and `layers.{i}.out`, the output of layer i.

    A feature's output directions are unrelated to its residual ones. It is written by the layers of its window, so a
    cross-layer transcoder can read it at the window's first layer and write it to all of them.
    """

    config: LayerWorldConfig

    def points(self) -> tuple[str, ...]:
        """Names of all points."""
        return tuple(f"layers.{i}{part}" for i in range(self.config.num_layers) for part in ("", ".out"))

    @cached_property
    def windows_C2(self) -> Tensor:
        """The first layer of each feature, and the layer after its last one, (C, 2)."""
        c = self.config
        generator = self._generator(1)
        u = torch.rand(2, c.num_features, generator=generator)
        longest = c.max_span or c.num_layers
        span = c.min_span + (u[0] * (longest - c.min_span + 1)).long()
        # Spread evenly, so that layers differ in which features they have but hardly in how many.
        place = (torch.randperm(c.num_features, generator=generator) + u[1]) / c.num_features
        start = (place * (c.num_layers - span + 1)).long()
        return torch.stack([start, start + span], dim=1)

    @cached_property
    def strength_CL(self) -> Tensor:
        """Strength of each feature at each layer, 0 outside its window."""
        layer = torch.arange(self.config.num_layers)
        start, stop = self.windows_C2[:, :1], self.windows_C2[:, 1:]
        inside = ((layer >= start) & (layer < stop)).float()
        if self.config.profile == "flat":
            return inside
        return inside * (0.4 + 0.6 * torch.sin(math.pi * (layer - start + 0.5) / (stop - start)))

    @cached_property
    def rates_C(self) -> Tensor:
        """Firing rate of each feature."""
        c = self.config
        return c.min_rate * (c.max_rate / c.min_rate) ** torch.rand(c.num_features, generator=self._generator(2))

    @cached_property
    def directions(self) -> dict[str, Tensor]:
        """Unit directions of the features at each point, (C, D)."""
        by_point = {}
        for part, stream in (("", 3), (".out", 4)):
            generator = self._generator(stream)
            direction = self._unit(generator)
            for layer in range(self.config.num_layers):
                if layer:
                    other = self._unit(generator)
                    other = other - (other * direction).sum(1, keepdim=True) * direction
                    other = other / other.norm(dim=1, keepdim=True)
                    drift = self.config.drift
                    direction = drift * direction + math.sqrt(1 - drift**2) * other
                by_point[f"layers.{layer}{part}"] = direction
        return by_point

    def codes(self, ids_B: Tensor) -> Tensor:
        """Strength of each feature at its strongest layer, (B, C)."""
        count = self.config.num_features
        fires = uniform(ids_B, count, stream=1) < self.rates_C
        return torch.where(fires, 0.5 + uniform(ids_B, count, stream=2), 0.0)

    def activations(self, points: Sequence[str], ids_B: Tensor) -> dict[str, Tensor]:
        """Activations (B, D) at each point for token ids."""
        codes_BC = self.codes(ids_B)
        by_point = {}
        for point in points:
            number = self.points().index(point)
            strength_C = self.strength_CL[:, number // 2]
            x_BD = codes_BC @ (strength_C[:, None] * self.directions[point])
            by_point[point] = x_BD + self.config.noise * normal(ids_B, self.config.width, stream=10 + number)
        return by_point

    def _unit(self, generator: torch.Generator) -> Tensor:
        drawn = torch.randn(self.config.num_features, self.config.width, generator=generator)
        unit: Tensor = drawn / drawn.norm(dim=1, keepdim=True)
        return unit

    def _generator(self, stream: int) -> torch.Generator:
        return torch.Generator().manual_seed(self.config.seed * 16 + stream + 100_003)
