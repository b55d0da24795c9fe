"""Models of planted worlds behind the adapter interface, so that everything can be tested against a known truth.

A token id is one sample of the world. Logits are a fixed linear readout of the activations at all points.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from attrs import asdict, field, frozen
from attrs.validators import ge, in_
from torch import Tensor

from crosscoders import ConfigError, Document, Edit, SiteError, TokenBatch, TokenIds, Tokenized
from crosscoders.testing.worlds import DiffWorld, DiffWorldConfig, LayerWorld, LayerWorldConfig

VOCABULARY = 2**40
READOUT = 32


@frozen(kw_only=True)
class SyntheticConfig:
    """One of the models of a planted diff world."""

    model: str = field(default="a", validator=in_(("a", "b", "c")))
    """Which of them; worlds of two models have no "c"."""
    world: DiffWorldConfig = field(factory=DiffWorldConfig)
    """The world; give all models the same."""

    def __attrs_post_init__(self) -> None:
        if self.model not in self.world.models:
            raise ConfigError('model = "c" needs a world of num_models = 3')


@frozen(kw_only=True)
class SyntheticLayersConfig:
    """A planted model whose features live on windows of its layers."""

    world: LayerWorldConfig = field(factory=LayerWorldConfig)
    """The planted world that the model belongs to."""


class PlantedAdapter(ABC):
    """What all models of planted worlds have in common."""

    device = torch.device("cpu")

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """See `ModelAdapter`."""

    @abstractmethod
    def points(self) -> Sequence[str]:
        """See `ModelAdapter`."""

    @abstractmethod
    def sample(self, points: Sequence[str], ids_B: Tensor) -> dict[str, Tensor]:
        """Activations (B, D) at each point for token ids."""

    @abstractmethod
    def point_width(self, point: str) -> int:
        """The width at `point`, which must exist."""

    def width(self, point: str) -> int:
        if point not in self.points():
            raise SiteError(f"this synthetic model has no point '{point}'; it has {', '.join(self.points())}")
        return self.point_width(point)

    def vocabulary(self) -> str:
        return "synthetic"

    def has_chat_template(self) -> bool:
        return False

    def tokenize(self, document: Document) -> Tokenized:
        if not isinstance(document, TokenIds):
            raise ConfigError("a synthetic model reads token ids, not text; use the token source 'synthetic'")
        plain = [False] * len(document.ids)
        return Tokenized(document.ids, plain, plain)

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        return [f"{i} " for i in ids]

    def prompt(self, question: str) -> list[int]:
        """The numbers in the question as token ids, or one id computed from its letters."""
        numbers = [int(word) % VOCABULARY for word in question.split() if word.isdigit()]
        return numbers or [sum(question.encode())]

    def end_tokens(self) -> frozenset[int]:
        return frozenset({0})

    def text(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, ids))

    def to(self, device: torch.device) -> PlantedAdapter:
        self.device = device
        return self

    def activations(self, tokens: TokenBatch, points: Sequence[str]) -> dict[str, Tensor]:
        for point in points:
            self.width(point)
        by_point = self.sample(points, tokens.ids.flatten().cpu())
        return {point: x_BD.view(*tokens.ids.shape, -1).to(self.device) for point, x_BD in by_point.items()}

    def logits(self, tokens: TokenBatch, edits: Sequence[Edit] = ()) -> Tensor:
        by_point = self.activations(tokens, self.points())
        for edit in edits:
            self.width(edit.point)
            by_point[edit.point] = edit.apply(by_point[edit.point])
        return torch.stack([x_BTD @ self._readout(point) for point, x_BTD in by_point.items()]).sum(dim=0)

    def _readout(self, point: str) -> Tensor:
        generator = torch.Generator().manual_seed(list(self.points()).index(point))
        return torch.randn(self.width(point), READOUT, generator=generator).to(self.device)

    def read_out(self, point: str, direction_KD: Tensor) -> Tensor:
        self.width(point)
        return direction_KD.to(self.device) @ self._readout(point)

    def decoder(self, edits: Sequence[Edit] = ()) -> SyntheticDecoder:
        return SyntheticDecoder(self, edits)


class SyntheticAdapter(PlantedAdapter):
    """Model adapter `synthetic`: the only point is `x`."""

    def __init__(self, options: SyntheticConfig) -> None:
        self.options = options
        self.world = DiffWorld(options.world)

    def describe(self) -> dict[str, Any]:
        return {
            "adapter": "synthetic",
            "model": self.options.model,
            "revision": "1",
            "world": asdict(self.options.world),
        }

    def points(self) -> Sequence[str]:
        return ("x",)

    def point_width(self, point: str) -> int:
        return self.options.world.width_of(self.options.model)

    def sample(self, points: Sequence[str], ids_B: Tensor) -> dict[str, Tensor]:
        return {point: self.world.activations(self.options.model, ids_B) for point in points}


class SyntheticLayers(PlantedAdapter):
    """Model adapter `synthetic_layers`: points `layers.{i}` and `layers.{i}.out`."""

    def __init__(self, options: SyntheticLayersConfig) -> None:
        self.options = options
        self.world = LayerWorld(options.world)

    def describe(self) -> dict[str, Any]:
        return {"adapter": "synthetic_layers", "model": "layers", "revision": "1", "world": asdict(self.options.world)}

    def points(self) -> Sequence[str]:
        return self.world.points()

    def point_width(self, point: str) -> int:
        return self.options.world.width

    def sample(self, points: Sequence[str], ids_B: Tensor) -> dict[str, Tensor]:
        return self.world.activations(points, ids_B)


class SyntheticDecoder:
    """Decodes with a planted model, which has no memory: a context's logits are those of its last token."""

    def __init__(self, adapter: PlantedAdapter, edits: Sequence[Edit] = ()) -> None:
        self.adapter, self.edits = adapter, edits

    def advance(self, ids: Tensor, attention: Tensor) -> Tensor:
        plain = torch.zeros_like(ids, dtype=torch.bool)
        return self.adapter.logits(TokenBatch(ids, ~plain, plain, plain), self.edits)[:, -1]


@frozen(kw_only=True)
class SyntheticTokensConfig:
    """Documents of random token ids."""

    length: int = field(default=128, validator=ge(1))
    """Number of tokens in a document."""
    seed: int = 0
    """Decides the ids."""
    consecutive: bool = False
    """Ids of a document follow each other, as in worlds whose documents have topics; else each is drawn alone."""


@frozen
class SyntheticTokens:
    """Token source `synthetic`: endless documents of token ids, each its own sample of the world."""

    config: SyntheticTokensConfig

    def documents(self, *, skip: int = 0) -> Iterator[TokenIds]:
        """Yield the documents from number `skip` on; skipping costs nothing."""
        number = skip
        while True:
            if self.config.consecutive:
                first = (self.config.seed * 1_000_003 + number) * self.config.length
                yield TokenIds(tuple(i % VOCABULARY for i in range(first, first + self.config.length)))
                number += 1
                continue
            generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + number)
            yield TokenIds(tuple(torch.randint(VOCABULARY, (self.config.length,), generator=generator).tolist()))
            number += 1
