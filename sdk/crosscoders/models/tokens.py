"""Tokens: what a model adapter makes of documents, rows of them for a forward pass, and where documents come from."""

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

    def sequences(self, start: int, stop: int) -> TokenBatch:
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


@runtime_checkable
class TokenSource(Protocol):
    """A stream of documents that is the same every time."""

    def documents(self, *, skip: int = 0) -> Iterator[Document]:
        """Documents from number `skip` on."""
