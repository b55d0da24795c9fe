"""The interface of model adapters, as protocols: an adapter needs the right methods, but no base class."""

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
    """A change to a model's activations at one point during its forward pass."""

    point: str
    apply: Callable[[Tensor], Tensor] = field()
    """Maps the activations at the point, (B, T, D), to their replacement."""

    @classmethod
    def replace(cls, point: str, value: Tensor) -> Edit:
        """Replace the activations by `value`, which is broadcast to their shape."""
        return cls(point, lambda activation: value.to(activation).expand_as(activation).clone())

    @classmethod
    def add(cls, point: str, value: Tensor) -> Edit:
        """Add `value` to the activations."""
        return cls(point, lambda activation: activation + value.to(activation))


class Decoder(Protocol):
    """A model that reads growing contexts, with its own key-value cache."""

    def advance(self, ids: Tensor, attention: Tensor) -> Tensor:
        """Read the next tokens (B, T) of every row and return the logits after them (B, V).

        `attention` is False for left padding.
        """


@runtime_checkable
class ModelAdapter(Protocol):
    """A model as crosscoders see it: tokens in; activations, logits and edits at named points.

    One that reads no more than some number of tokens says so by a further method, `longest_context() -> int | None`.
    """

    def describe(self) -> dict[str, Any]:
        """JSON data that identifies the model: at least `model`, `revision`, and `adapter`."""

    def points(self) -> Sequence[str]:
        """Names of all points, in the order in which the forward pass reaches them."""

    def width(self, point: str) -> int:
        """Width of the activations at `point`; raises `SiteError` if there is no such point."""

    def vocabulary(self) -> str:
        """A fingerprint of the vocabulary: two models with the same one give every token id the same meaning."""

    def has_chat_template(self) -> bool:
        """Whether `tokenize` can lay out conversations."""

    def tokenize(self, document: Document) -> Tokenized:
        """Tokenize a document, without padding, with a beginning-of-sequence token if the model has one."""

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        """The text of each token on its own, with spaces kept."""

    def prompt(self, question: str) -> list[int]:
        """Token ids of a user's question, laid out so that the model answers next."""

    def end_tokens(self) -> frozenset[int]:
        """The token ids that end an answer."""

    def text(self, ids: Sequence[int]) -> str:
        """The text of a sequence, without special tokens."""

    def to(self, device: torch.device) -> ModelAdapter:
        """Move the model; returns the adapter."""

    def activations(self, tokens: TokenBatch, points: Sequence[str]) -> dict[str, Tensor]:
        """Activations (B, T, D) at each point, detached; the forward pass stops after the last one."""

    def logits(self, tokens: TokenBatch, edits: Sequence[Edit] = ()) -> Tensor:
        """Logits (B, T, V) of the model, with `edits` applied during the forward pass."""

    def decoder(self) -> Decoder:
        """A fresh decoder with an empty cache."""
