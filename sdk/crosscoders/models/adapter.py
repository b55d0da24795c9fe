"""The interface of model adapters, met by having the right methods; no base class is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from attrs import field, frozen

from .documents import Document
from .tokens import TokenBatch, Tokenized

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@frozen(eq=False)
class Edit:
    """A change to a model's activations at one point while it runs."""

    point: str
    apply: Callable[[Tensor], Tensor] = field()
    """From the activations there, (B, T, D), to what takes their place."""

    @classmethod
    def replace(cls, point: str, value: Tensor) -> Edit:
        """Put `value`, broadcast to their shape, in the place of the activations."""
        return cls(point, lambda activation: value.to(activation).expand_as(activation).clone())

    @classmethod
    def add(cls, point: str, value: Tensor) -> Edit:
        """Add `value` to the activations."""
        return cls(point, lambda activation: activation + value.to(activation))


class Decoder(Protocol):
    """A model reading growing contexts token by token, with its own cache."""

    def advance(self, ids: Tensor, attention: Tensor) -> Tensor:
        """Read the next tokens (B, T) of every row, False in `attention` for left padding; logits after them (B, V)."""


@runtime_checkable
class ModelAdapter(Protocol):
    """A model as crosscoders see it: tokens in; activations, logits and edits at named points."""

    def describe(self) -> dict[str, Any]:
        """JSON data that identifies the model: at least `model`, `revision`, and `adapter`."""

    def points(self) -> Sequence[str]:
        """Names of all points, in the order in which the forward pass reaches them."""

    def width(self, point: str) -> int:
        """Width of the activations at `point`; `SiteError` when there is none."""

    def vocabulary(self) -> str:
        """A fingerprint: models with equal ones read the same token ids alike."""

    def has_chat_template(self) -> bool:
        """Whether `tokenize` can lay out conversations."""

    def tokenize(self, document: Document) -> Tokenized:
        """Tokens of a document, without padding, with a beginning-of-sequence token if the model has one."""

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        """The text of each token by itself, spaces kept."""

    def prompt(self, question: str) -> list[int]:
        """Token ids of a user's question, laid out so that the model answers next."""

    def end_tokens(self) -> frozenset[int]:
        """Tokens after which an answer is over."""

    def text(self, ids: Sequence[int]) -> str:
        """The text of a sequence, special tokens left out."""

    def to(self, device: torch.device) -> ModelAdapter:
        """Move the model; returns the adapter."""

    def activations(self, tokens: TokenBatch, points: Sequence[str]) -> dict[str, Tensor]:
        """Activations (B, T, D) at each point, detached; the forward pass stops after the last one."""

    def logits(self, tokens: TokenBatch, edits: Sequence[Edit] = ()) -> Tensor:
        """Logits (B, T, V) of the model, with `edits` made on the way."""

    def decoder(self) -> Decoder:
        """A fresh decoder with an empty cache."""
