"""Models of a planted world behind the adapter interface, so that everything can be tested against known truth.

A token id is one sample of the world. The only point is `x`; logits are a fixed linear readout of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from attrs import asdict, field, frozen
from attrs.validators import ge, in_
from torch import Tensor

from crosscoders.documents import Document, TokenIds
from crosscoders.errors import ConfigError, SiteError
from crosscoders.protocols import Edit, TokenBatch, Tokenized
from crosscoders.testing.worlds import DiffWorld, DiffWorldConfig

VOCABULARY = 2**40
READOUT = 32


@frozen(kw_only=True)
class SyntheticConfig:
    """One of the two models of a planted world."""

    model: str = field(default="a", validator=in_(("a", "b")))
    """Which of the two."""
    world: DiffWorldConfig = field(factory=DiffWorldConfig)
    """The world; give both models the same."""


class SyntheticAdapter:
    """Model adapter `synthetic`."""

    def __init__(self, options: SyntheticConfig) -> None:
        self.options = options
        self.world = DiffWorld(options.world)
        generator = torch.Generator().manual_seed(options.world.seed)
        self._readout_DV = torch.randn(options.world.width, READOUT, generator=generator)
        self.device = torch.device("cpu")

    def describe(self) -> dict[str, Any]:
        return {
            "adapter": "synthetic",
            "model": self.options.model,
            "revision": "1",
            "world": asdict(self.options.world),
        }

    def points(self) -> Sequence[str]:
        return ("x",)

    def width(self, point: str) -> int:
        if point != "x":
            raise SiteError(f"a synthetic model has no point '{point}'; its only one is x")
        return self.options.world.width

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
        """The numbers in the question, or one made of its letters."""
        numbers = [int(word) % VOCABULARY for word in question.split() if word.isdigit()]
        return numbers or [sum(question.encode())]

    def end_tokens(self) -> frozenset[int]:
        return frozenset({0})

    def text(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, ids))

    def to(self, device: torch.device) -> SyntheticAdapter:
        self.device = device
        return self

    def activations(self, tokens: TokenBatch, points: Sequence[str]) -> dict[str, Tensor]:
        for point in points:
            self.width(point)
        x_BD = self.world.activations(self.options.model, tokens.ids.flatten().cpu())
        return {"x": x_BD.view(*tokens.ids.shape, -1).to(self.device)}

    def logits(self, tokens: TokenBatch, edits: Sequence[Edit] = ()) -> Tensor:
        x_BTD = self.activations(tokens, ("x",))["x"]
        for edit in edits:
            self.width(edit.point)
            x_BTD = edit.apply(x_BTD)
        return x_BTD @ self._readout_DV.to(self.device)

    def decoder(self) -> SyntheticDecoder:
        return SyntheticDecoder(self)


class SyntheticDecoder:
    """The world has no memory, so a context's logits are those of its last token."""

    def __init__(self, adapter: SyntheticAdapter) -> None:
        self.adapter = adapter

    def advance(self, ids: Tensor, attention: Tensor) -> Tensor:
        last = ids[:, -1:]
        plain = torch.zeros_like(last, dtype=torch.bool)
        return self.adapter.logits(TokenBatch(last, ~plain, plain, plain))[:, -1]


@frozen(kw_only=True)
class SyntheticTokensConfig:
    """Random token ids."""

    length: int = field(default=128, validator=ge(1))
    """Tokens of one document."""
    seed: int = 0
    """Decides the ids."""


@frozen
class SyntheticTokens:
    """Token source `synthetic`: endless documents of random ids, each its own sample of the world."""

    config: SyntheticTokensConfig

    def documents(self, *, skip: int = 0) -> Iterator[TokenIds]:
        """Documents from number `skip` on, at no cost for those skipped."""
        number = skip
        while True:
            generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + number)
            yield TokenIds(tuple(torch.randint(VOCABULARY, (self.config.length,), generator=generator).tolist()))
            number += 1
