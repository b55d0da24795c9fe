"""Cutting documents into token rows of one length, with a position that can be saved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch

from ..errors import ConfigError
from .adapter import ModelAdapter
from .documents import Document, is_held_out
from .tokens import TokenBatch, Tokenized, TokenSource

Split = Literal["train", "held_out"]


def reading_adapter(adapters: Mapping[str, ModelAdapter], tokenizer: str = "") -> ModelAdapter:
    """The model whose tokenizer is used: the named one, else the first with a chat template, else the first."""
    if tokenizer:
        if tokenizer not in adapters:
            raise ConfigError(f"tokenizer is '{tokenizer}', but the models are {', '.join(adapters)}")
        return adapters[tokenizer]
    return next((a for a in adapters.values() if a.has_chat_template()), next(iter(adapters.values())))


Row = list[tuple[int, bool, bool]]
"""The tokens of a row, each as its id, whether it begins a sequence, and whether it is special."""


def row_of(tokens: Tokenized) -> Row:
    """Make a row of a document's tokens."""
    return list(zip(tokens.ids, tokens.bos, tokens.special, strict=True))


def padded(rows: list[Row], length: int) -> TokenBatch:
    """Pad rows of at most `length` tokens on the right."""
    shape = (len(rows), length)
    ids = torch.zeros(shape, dtype=torch.int64)
    attention, bos, special = (torch.zeros(shape, dtype=torch.bool) for _ in range(3))
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor([token for token, _, _ in row])
        bos[number, : len(row)] = torch.tensor([is_bos for _, is_bos, _ in row])
        special[number, : len(row)] = torch.tensor([is_special for _, _, is_special in row])
        attention[number, : len(row)] = True
    return TokenBatch(ids, attention, bos, special)


class SequenceReader:
    """Cuts documents into rows of `context_length` tokens.

    With `pack`, documents follow each other without padding, and long ones continue in the next row; without it, each
    document is one row, truncated or padded on the right. When the source ends, it is read again from its beginning.
    With `repeat=False` reading stops at the end, so the last rows are fewer, and a last one that is not full is padded.
    """

    def __init__(
        self,
        source: TokenSource,
        adapter: ModelAdapter,
        *,
        context_length: int,
        pack: bool = True,
        split: Split = "train",
        held_out_share: float = 0.0,
        repeat: bool = True,
    ) -> None:
        self.source, self.adapter = source, adapter
        self.context_length, self.pack = context_length, pack
        self.split, self.held_out_share, self.repeat = split, held_out_share, repeat
        self._next_document = 0
        self._pending: Row = []
        self._documents: Iterator[Document] | None = None
        self._rows_since_start = 0
        self.passes = 0
        """The number of times that the source has been read to its end."""

    def read(self, num_sequences: int) -> TokenBatch:
        """The next rows; fewer than asked for only at the end of a source that is not repeated."""
        return padded([row for _ in range(num_sequences) if (row := self._row())], self.context_length)

    def state(self) -> dict[str, Any]:
        """The position, as JSON data."""
        return {
            "next_document": self._next_document,
            "passes": self.passes,
            "pending": [list(entry) for entry in self._pending],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go to a position that `state` returned."""
        self._next_document, self.passes = state["next_document"], state["passes"]
        self._pending = [(int(token), bool(bos), bool(special)) for token, bos, special in state["pending"]]
        self._documents = None

    def _row(self) -> Row:
        while len(self._pending) < (self.context_length if self.pack else 1):
            tokens = self._next_tokens()
            if not tokens:
                break
            self._pending += tokens
        if self.pack:
            row, self._pending = self._pending[: self.context_length], self._pending[self.context_length :]
        else:
            row, self._pending = self._pending[: self.context_length], []
        return row

    def _next_tokens(self) -> Row:
        """The tokens of the next document that has any; empty at the end of a source that is not repeated."""
        while (document := self._next_in_split()) is not None:
            tokens = self.adapter.tokenize(document)
            if len(tokens.ids):
                return row_of(tokens)
        return []

    def _next_in_split(self) -> Document | None:
        """The next document of this split; None at the end of a source that is not repeated."""
        restarts = 0
        while True:
            if self._documents is None:
                self._documents = self.source.documents(skip=self._next_document)
            document = next(self._documents, None)
            if document is None:
                if not self.repeat and (self._next_document or self.passes):
                    return None
                restarts += 1
                if restarts > 1:
                    raise ConfigError(
                        f"the token source has no document in its {self.split} split; give it more documents or "
                        f"change held_out_share, which is {self.held_out_share}"
                    )
                self._documents, self._next_document, self.passes = None, 0, self.passes + 1
                continue
            self._next_document += 1
            if is_held_out(document, self.held_out_share) == (self.split == "held_out"):
                return document
