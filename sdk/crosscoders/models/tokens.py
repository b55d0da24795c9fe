"""Tokens: tokenized documents, batches of token rows for a forward pass, and the interface of token sources."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from attrs import field, frozen

from .documents import BadRow, Document

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
    document: Tensor | None = None
    """int64: the number, in its source, of the document that a token is of, −1 for padding.

    Where a row has several, each is to be read as if it were alone. None: a row is read as one context.
    """
    wanted: Tensor | None = None
    """False at tokens of none of the roles that `MaskConfig.roles` asks for, in conversations; None: all count."""

    @property
    def is_packed(self) -> bool:
        """Whether some row has more than one document."""
        if self.document is None:
            return False
        first_B1 = self.document.amax(dim=1, keepdim=True)
        return bool(((self.document != first_B1) & self.attention).any())

    def to(self, device: torch.device) -> TokenBatch:
        """The same rows on `device`."""
        return self.mapped(lambda tensor: tensor.to(device))

    def sequences(self, start: int, stop: int) -> TokenBatch:
        """The rows from `start` to `stop`."""
        return self.mapped(lambda tensor: tensor[start:stop])

    def mapped(self, change: Callable[[Tensor], Tensor]) -> TokenBatch:
        """The rows with `change` made to every tensor, those of partners too."""
        partners = {
            key: Partner(partner.tokens.mapped(change), change(partner.position_BT))
            for key, partner in self.partners.items()
        }
        document, wanted = (None if each is None else change(each) for each in (self.document, self.wanted))
        return TokenBatch(
            change(self.ids), change(self.attention), change(self.bos), change(self.special), partners, document, wanted
        )


@frozen
class Tokenized:
    """One document as tokens."""

    ids: Sequence[int]
    bos: Sequence[bool]
    special: Sequence[bool]
    wanted: Sequence[bool] | None = None
    """False at tokens of none of the roles asked for; None: all count."""

    def cut(self, start: int, room: int) -> tuple[Tokenized, int]:
        """At most `room` tokens from place `start` on, and the place after them.

        A cut from the middle begins like its document: with the beginning-of-sequence token, if that has one.
        """
        again = 1 if start and self.bos[0] and room > 1 else 0
        stop = min(start + room - again, len(self.ids))
        first, part = self.part(0, again), self.part(start, stop)
        wanted = None if self.wanted is None else [*(first.wanted or ()), *(part.wanted or ())]
        joined = Tokenized([*first.ids, *part.ids], [*first.bos, *part.bos], [*first.special, *part.special], wanted)
        return joined, stop

    def part(self, start: int, stop: int) -> Tokenized:
        """The tokens from place `start` to `stop`."""
        wanted = None if self.wanted is None else self.wanted[start:stop]
        return Tokenized(self.ids[start:stop], self.bos[start:stop], self.special[start:stop], wanted)


@runtime_checkable
class TokenSource(Protocol):
    """A reproducible stream of documents: the same ones, in the same order, every time."""

    def documents(self, *, skip: int = 0) -> Iterator[Document | BadRow]:
        """Yield the documents from number `skip` on; rows that hold none are numbered too, if they are passed over."""
