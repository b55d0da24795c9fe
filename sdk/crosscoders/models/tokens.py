"""Tokens: tokenized documents, batches of token rows for a forward pass, and the interface of token sources."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from attrs import field, frozen

from .documents import Document

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@frozen(eq=False)
class Partner:
    """The same rows as the tokenizer of another model reads them."""

    tokens: TokenBatch
    """The tokens of the other model, (B, T of its own)."""
    position_BT: Tensor
    """For each token of the reading model, the position of its partner in `tokens`, or −1 if it has none."""

    def gather(self, value_BT: Tensor) -> Tensor:
        """Move values from the partner's tokens (B, T of its own, …) to the reading model's (B, T, …).

        Unpaired tokens get arbitrary values.
        """
        import torch

        rows = torch.arange(len(self.position_BT), device=self.position_BT.device)[:, None]
        return value_BT[rows, self.position_BT.clamp_min(0)]


@frozen(eq=False)
class TokenBatch:
    """Rows of tokens for a model. All tensors are (B, T); padding may be on either side."""

    ids: Tensor
    """The token ids, int64."""
    attention: Tensor
    """True where there is a token, False for padding."""
    bos: Tensor
    """True at beginning-of-sequence tokens."""
    special: Tensor
    """True at every special token: beginning and end of sequence, and chat-template tokens."""
    partners: Mapping[str, Partner] = field(factory=dict)
    """The rows of models with another vocabulary, by model key."""

    def to(self, device: torch.device) -> TokenBatch:
        """The same rows on `device`."""
        return self._mapped(lambda tensor: tensor.to(device))

    def sequences(self, start: int, stop: int) -> TokenBatch:
        """The rows from `start` to `stop`."""
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


@runtime_checkable
class TokenSource(Protocol):
    """A reproducible stream of documents: the same ones, in the same order, every time."""

    def documents(self, *, skip: int = 0) -> Iterator[Document]:
        """Yield the documents from number `skip` on."""
