"""The difference of two models as a model: its activations are those of one model minus those of another.

A sparse autoencoder over one of its sites is the difference SAE (on x_chat − x_base), the strongest simple baseline for
model diffs. Whatever works on a site works on the difference: normaliser, losses, analyses, crosscoders over layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from attrs import field, frozen
from torch import Tensor

from crosscoders import (
    ConfigError,
    Decoder,
    Document,
    Edit,
    ModelAdapter,
    ModelChoice,
    SiteError,
    TokenBatch,
    Tokenized,
)
from crosscoders.authoring import longest_context


@frozen(kw_only=True)
class DifferenceConfig:
    """Two models that read the same tokens."""

    after: ModelChoice = field()
    """The model whose activations count as positive, usually the chat or fine-tuned model."""
    before: ModelChoice = field()
    """The model whose activations are subtracted, usually the base model."""


class Difference:
    """Model adapter `difference`: points and widths that both models have; tokens, logits and text are `after`'s."""

    def __init__(self, options: DifferenceConfig) -> None:
        self.after: ModelAdapter = options.after.build()
        self.before: ModelAdapter = options.before.build()
        if self.after.vocabulary() != self.before.vocabulary():
            raise ConfigError("the two models of a difference have different vocabularies")

    def describe(self) -> dict[str, Any]:
        after, before = self.after.describe(), self.before.describe()
        return {
            "adapter": "difference",
            "model": f"{after['model']} - {before['model']}",
            "revision": f"{after['revision']} - {before['revision']}",
            "after": after,
            "before": before,
        }

    def points(self) -> Sequence[str]:
        theirs = set(self.before.points())
        return [p for p in self.after.points() if p in theirs and self.after.width(p) == self.before.width(p)]

    def width(self, point: str) -> int:
        if self.after.width(point) != self.before.width(point):
            raise SiteError(
                f"the models have widths {self.after.width(point)} and {self.before.width(point)} at '{point}', so "
                "their difference is not defined there"
            )
        return self.after.width(point)

    def longest_context(self) -> int | None:
        """The shorter one of the two models'."""
        known = [length for model in (self.after, self.before) if (length := longest_context(model)) is not None]
        return min(known, default=None)

    def vocabulary(self) -> str:
        return self.after.vocabulary()

    def has_chat_template(self) -> bool:
        return self.after.has_chat_template()

    def tokenize(self, document: Document) -> Tokenized:
        return self.after.tokenize(document)

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        return self.after.token_texts(ids)

    def prompt(self, question: str) -> list[int]:
        return self.after.prompt(question)

    def end_tokens(self) -> frozenset[int]:
        return self.after.end_tokens()

    def text(self, ids: Sequence[int]) -> str:
        return self.after.text(ids)

    def to(self, device: torch.device) -> Difference:
        self.after, self.before = self.after.to(device), self.before.to(device)
        return self

    def activations(self, tokens: TokenBatch, points: Sequence[str]) -> dict[str, Tensor]:
        after, before = self.after.activations(tokens, points), self.before.activations(tokens, points)
        return {point: after[point].float() - before[point].float() for point in points}

    def logits(self, tokens: TokenBatch, edits: Sequence[Edit] = ()) -> Tensor:
        """Logits of `after`; an edit of the difference moves its activations by as much as the difference changes."""
        before = self.before.activations(tokens, [edit.point for edit in edits])

        def moved(edit: Edit) -> Callable[[Tensor], Tensor]:
            return lambda activation: edit.apply(activation - before[edit.point]) + before[edit.point]

        return self.after.logits(tokens, [Edit(edit.point, moved(edit)) for edit in edits])

    def decoder(self) -> Decoder:
        return self.after.decoder()
