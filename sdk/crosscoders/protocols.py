"""Interfaces that plugins meet by having the right methods; no base class is needed.

Losses and gates, which carry tensors to be saved, have base classes instead: see `losses` and `gates`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from attrs import field, frozen

from .documents import Document

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from .crosscoder import Crosscoder
    from .reports import Report
    from .study import Study
    from .training.progress import RunView, StepReport


@frozen(eq=False)
class Partner:
    """The same rows as another model's tokenizer reads them."""

    tokens: TokenBatch
    """Its tokens, (B, T of its own)."""
    position_BT: Tensor
    """For each token of the reading model the place of the one it is paired with, or −1 where it has none."""

    def gather(self, value_BT: Tensor) -> Tensor:
        """From the partner's tokens, (B, T of its own, …), to the reading model's, (B, T, …); unpaired ones get any."""
        import torch

        rows = torch.arange(len(self.position_BT), device=self.position_BT.device)[:, None]
        return value_BT[rows, self.position_BT.clamp_min(0)]


@frozen(eq=False)
class TokenBatch:
    """Rows of tokens for a model, (B, T) each; padding may be on either side."""

    ids: Tensor
    """int64 token ids."""
    attention: Tensor
    """True where there is a token, False for padding."""
    bos: Tensor
    """True at beginning-of-sequence tokens."""
    special: Tensor
    """True at every special token: sequence ends, chat-template tokens, the beginning too."""
    partners: Mapping[str, Partner] = field(factory=dict)
    """By model key: the rows of models with another vocabulary."""

    def to(self, device: torch.device) -> TokenBatch:
        """The same rows on `device`."""
        return self._mapped(lambda tensor: tensor.to(device))

    def rows(self, start: int, stop: int) -> TokenBatch:
        """Some of the rows."""
        return self._mapped(lambda tensor: tensor[start:stop])

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> TokenBatch:
        partners = {
            key: Partner(partner.tokens._mapped(change), change(partner.position_BT))
            for key, partner in self.partners.items()
        }
        return TokenBatch(change(self.ids), change(self.attention), change(self.bos), change(self.special), partners)


@frozen
class Tokenized:
    """One document as tokens."""

    ids: Sequence[int]
    bos: Sequence[bool]
    special: Sequence[bool]


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


@runtime_checkable
class TokenSource(Protocol):
    """A stream of documents that is the same every time."""

    def documents(self, *, skip: int = 0) -> Iterator[Document]:
        """Documents from number `skip` on."""


@runtime_checkable
class Analysis(Protocol):
    """From a study (crosscoder, models, tokens) to a report."""

    def run(self, study: Study) -> Report:
        """Do the analysis; `AnalysisError` where it is not defined."""


@runtime_checkable
class Observer(Protocol):
    """Watches a training run; called in every process."""

    def step_end(self, run: RunView, report: StepReport) -> None:
        """After each optimizer step; the report's tensors are detached and not yet synchronised."""

    def run_end(self, run: RunView) -> None:
        """After the last step, when the final evaluation is done."""


@runtime_checkable
class CheckpointFormat(Protocol):
    """Another library's checkpoint files."""

    def detect(self, files: Iterable[str]) -> bool:
        """Whether a folder with these files is of this format."""

    def read(self, folder: Path, sites: Mapping[str, str]) -> Crosscoder:
        """Read a crosscoder; `sites` names the sites that the files do not name."""

    def write(self, crosscoder: Crosscoder, folder: Path) -> None:
        """Write `crosscoder` in this format."""
