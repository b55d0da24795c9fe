"""The difference of two models as a model: its activations are those of one model minus those of another.

A sparse autoencoder over one of its sites is the difference SAE (on x_chat − x_base), the strongest simple baseline for
model diffs. Whatever works on a site works on the difference: normaliser, losses, analyses, crosscoders over layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from attrs import field, frozen
from torch import Tensor

from crosscoders import (
    Chat,
    ConfigError,
    Decoder,
    Document,
    Edit,
    ModelAdapter,
    ModelChoice,
    ReadsOut,
    SiteError,
    TokenBatch,
    Tokenized,
)
from crosscoders.authoring import (
    generates,
    gives_logits,
    lays_out_chats,
    longest_context,
    reads_text,
    token_texts,
    tokenized,
    vocabulary_of,
)

WHAT = "the difference of two models"
"""What asks the two models for more than activations."""


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
        if vocabulary_of(self.after) != vocabulary_of(self.before):
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
        return vocabulary_of(self.after)

    def has_chat_template(self) -> bool:
        return lays_out_chats(self.after)

    def tokenize(self, document: Document) -> Tokenized:
        return tokenized(self.after, document)

    def tokens_of(self, chat: Chat, roles: Sequence[str]) -> Sequence[bool]:
        return tokenized(self.after, chat, roles).wanted or ()

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        return token_texts(self.after, ids)

    def prompt(self, question: str) -> list[int]:
        return generates(self.after, WHAT).prompt(question)

    def end_tokens(self) -> frozenset[int]:
        return generates(self.after, WHAT).end_tokens()

    def text(self, ids: Sequence[int]) -> str:
        return reads_text(self.after, WHAT).text(ids)

    def to(self, device: torch.device) -> Difference:
        self.after, self.before = self.after.to(device), self.before.to(device)
        return self

    def activations(self, tokens: TokenBatch, points: Sequence[str]) -> dict[str, Tensor]:
        after, before = self.after.activations(tokens, points), self.before.activations(tokens, points)
        return {point: after[point].float() - before[point].float() for point in points}

    def logits(self, tokens: TokenBatch, edits: Sequence[Edit] = ()) -> Tensor:
        """Logits of `after`; an edit of the difference moves its activations by as much as the difference changes."""
        before = self.before.activations(tokens, [edit.point for edit in edits])
        return gives_logits(self.after, WHAT).logits(tokens, [_moved(edit, before) for edit in edits])

    def read_out(self, point: str, direction_KD: Tensor) -> Tensor:
        """What a direction adds to the logits of `after`."""
        if not isinstance(self.after, ReadsOut):
            raise SiteError(f"the model of '{point}' has no read-out")
        return self.after.read_out(point, direction_KD)

    def decoder(self, edits: Sequence[Edit] = ()) -> Decoder:
        return DifferenceDecoder(self, edits) if edits else generates(self.after, WHAT).decoder()


class DifferenceDecoder:
    """`after` reading on with edits of the difference, `before` reading the same tokens beside it."""

    def __init__(self, adapter: Difference, edits: Sequence[Edit]) -> None:
        self._seen: dict[str, Tensor] = {}
        before, after = (generates(model, WHAT) for model in (adapter.before, adapter.after))
        self.before = before.decoder([Edit(edit.point, self._recorder(edit.point)) for edit in edits])
        self.after = after.decoder([_moved(edit, self._seen) for edit in edits])

    def advance(self, ids: Tensor, attention: Tensor) -> Tensor:
        self.before.advance(ids, attention)
        return self.after.advance(ids, attention)

    def _recorder(self, point: str) -> Callable[[Tensor], Tensor]:
        def record(activation: Tensor) -> Tensor:
            self._seen[point] = activation
            return activation

        return record


def _moved(edit: Edit, before: Mapping[str, Tensor]) -> Edit:
    """An edit of the difference as one of `after`, given what `before` has there."""
    return Edit(edit.point, lambda activation: edit.apply(activation - before[edit.point]) + before[edit.point])
