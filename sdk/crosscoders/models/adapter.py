"""The interface of model adapters, as protocols: an adapter needs the right methods, but no base class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from attrs import field, frozen

from .documents import Chat, Document
from .tokens import TokenBatch, Tokenized

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class ChangesLatents(Protocol):
    """What `Edit.latents` asks of a crosscoder."""

    def change(
        self, changes: Any, *, site: str, x: Mapping[str, Tensor] | None, keep_error: bool
    ) -> Callable[[Tensor], Tensor]:
        """From activations at `site` to what the changes make of them."""


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

    @classmethod
    def latents(
        cls,
        crosscoder: ChangesLatents,
        changes: Mapping[int, Any],
        *,
        site: str,
        x: Mapping[str, Tensor] | None = None,
        keep_error: bool = True,
    ) -> Edit:
        """Change latents of a crosscoder at one of its written sites, `"chat/layers.13"`.

        `changes` says what becomes of each latent's value f: `"ablate"` makes it 0, `("scale", a)` a·f, `("clamp", a)`
        a on every token, `("add", a)` or a bare number a f + a on every token. The activations move by the difference
        times the latent's decoder row in raw units; what the crosscoder leaves unexplained stays, unless `keep_error`
        is false, when the reconstruction takes their place.

        Adding is the same for every token. The rest depends on the values, hence on every site that the crosscoder
        reads: `x` has their activations (B, T, D) for the same tokens; `site` itself may be left out and is then taken
        as it comes. `Study.steer` and `Study.ablate` see to all that.
        """
        return cls(site.partition("/")[2], crosscoder.change(changes, site=site, x=x, keep_error=keep_error))


class Decoder(Protocol):
    """A model that reads growing contexts, with its own key-value cache."""

    def advance(self, ids: Tensor, attention: Tensor) -> Tensor:
        """Read the next tokens (B, T) of every row and return the logits after them (B, V).

        `attention` is False for left padding.
        """


@runtime_checkable
class ModelAdapter(Protocol):
    """A model as crosscoders see it: rows of ids in, activations at named points out. That is all that training needs.

    What the ids mean is between the adapter and its token source: tokens of a vocabulary, or numbers of samples of a
    data set. What more a model can do is said by having the methods of further protocols: `ReadsText`, `GivesLogits`,
    `Generates`, `ReadsOut`; a `LanguageModel` has all but the last.

    A model that reads no more than some number of tokens says so by a method `longest_context() -> int | None`.
    """

    def describe(self) -> dict[str, Any]:
        """JSON data that identifies the model: at least `model`, `revision`, and `adapter`."""

    def points(self) -> Sequence[str]:
        """Names of all points, in the order in which the forward pass reaches them."""

    def width(self, point: str) -> int:
        """Width of the activations at `point`; raises `SiteError` if there is no such point."""

    def to(self, device: torch.device) -> ModelAdapter:
        """Move the model; returns the adapter."""

    def activations(self, tokens: TokenBatch, points: Sequence[str]) -> dict[str, Tensor]:
        """Activations (B, T, D) at each point, detached; the forward pass may stop after the last one."""


@runtime_checkable
class ReadsText(Protocol):
    """What an adapter offers whose ids are tokens of text. Without it, a token source has to yield `TokenIds`."""

    def vocabulary(self) -> str:
        """A fingerprint of the vocabulary: two models with the same one give every token id the same meaning."""

    def has_chat_template(self) -> bool:
        """Whether `tokenize` can lay out conversations."""

    def tokenize(self, document: Document) -> Tokenized:
        """Tokenize a document, without padding, with a beginning-of-sequence token if the model has one."""

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        """The text of each token on its own, with spaces kept."""

    def text(self, ids: Sequence[int]) -> str:
        """The text of a sequence, without special tokens."""


@runtime_checkable
class MarksRoles(Protocol):
    """What an adapter that reads text may offer besides: whose the tokens of a conversation are."""

    def tokens_of(self, chat: Chat, roles: Sequence[str]) -> Sequence[bool]:
        """For each token of `tokenize(chat)`, whether it is part of what one of `roles` says.

        `DocumentError` where the chat template does not let that be told exactly.
        """


@runtime_checkable
class GivesLogits(Protocol):
    """What an adapter offers that predicts the next token: losses with a reconstruction spliced in, ablations."""

    def logits(self, tokens: TokenBatch, edits: Sequence[Edit] = ()) -> Tensor:
        """Logits (B, T, V) of the model, with `edits` applied during the forward pass."""


@runtime_checkable
class Generates(Protocol):
    """What an adapter offers that writes text token by token: steered generation, amplification."""

    def prompt(self, question: str) -> list[int]:
        """Token ids of a user's question, laid out so that the model answers next."""

    def end_tokens(self) -> frozenset[int]:
        """The token ids that end an answer."""

    def decoder(self, edits: Sequence[Edit] = ()) -> Decoder:
        """A fresh decoder with an empty cache, which makes `edits` on the way: each sees the activations (B, T, D) of
        the tokens that are read at that moment.

        An adapter with `decoders_may_end_early = True` allows an edit to raise, which ends the pass there: what the
        layers below have read stays in the cache, and the next pass goes on from it.
        """


@runtime_checkable
class LanguageModel(ModelAdapter, ReadsText, GivesLogits, Generates, Protocol):
    """A model that reads text, predicts and writes it."""


@runtime_checkable
class ScalesAdapter(Protocol):
    """What an adapter may offer besides, of a model that is a base and a difference of weights such as a LoRA."""

    def scaled(self, factor: float) -> AbstractContextManager[None]:
        """Within, the difference counts `factor` times: 0 is the base."""


@runtime_checkable
class ReadsOut(Protocol):
    """What an adapter may offer besides: how directions in the residual stream come out in the logits."""

    def read_out(self, point: str, direction_KD: Tensor) -> Tensor:
        """What directions at `point` add to the logits directly, past all layers in between: (K, V) in fp32.

        Linear in the direction: the weight of the last norm is applied and its scale, 1/rms of the residual stream
        there, is left at 1. `SiteError` where the point is not on the residual stream.
        """
