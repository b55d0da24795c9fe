"""Rows for models with different tokenizers: each reads the same text in its own tokens, which are then paired."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..errors import ConfigError
from .adapter import ModelAdapter
from .alignment import align
from .context import check_context, longest_context
from .documents import Chat, Document, Text, TokenIds
from .sequences import Row, SequenceReader, Split, padded, row_of
from .tokens import Partner, TokenBatch, TokenSource

PARTNER_ROOM = 3
"""A partner's row may be this many times as long as the reading model's, as far as the partner has positions; the rest
is cut off."""


def make_reader(
    source: TokenSource,
    adapters: Mapping[str, ModelAdapter],
    reading: ModelAdapter,
    *,
    context_length: int,
    pack: bool = True,
    split: Split = "train",
    held_out_share: float = 0.0,
    repeat: bool = True,
) -> SequenceReader:
    """A reader for all `adapters`: a plain one if their vocabularies agree, a `PairedReader` otherwise."""
    check_context(adapters, context_length)
    others = {key: adapter for key, adapter in adapters.items() if adapter.vocabulary() != reading.vocabulary()}
    options: dict[str, Any] = {
        "context_length": context_length,
        "split": split,
        "held_out_share": held_out_share,
        "repeat": repeat,
    }
    if others:
        return PairedReader(source, reading, others, **options)
    return SequenceReader(source, reading, pack=pack, **options)


class PairedReader(SequenceReader):
    """Reads documents in the tokens of `adapter` and, side by side, in those of the `others`.

    Each document is one padded row. A long text becomes several rows: it is cut where the reading model's row is full,
    and every model starts anew from there. A long chat is truncated. Rows are not packed, because the models need not
    agree on how long a document is.
    """

    def __init__(
        self,
        source: TokenSource,
        adapter: ModelAdapter,
        others: Mapping[str, ModelAdapter],
        *,
        context_length: int,
        split: Split = "train",
        held_out_share: float = 0.0,
        repeat: bool = True,
    ) -> None:
        super().__init__(
            source,
            adapter,
            context_length=context_length,
            pack=False,
            split=split,
            held_out_share=held_out_share,
            repeat=repeat,
        )
        self.others = dict(others)
        self.num_matched = self.num_tokens = 0
        self._pieces: list[Document] = []
        self._pieces_done = 0

    @property
    def coverage(self) -> float:
        """The share of all tokens read so far, of all models, that lie in windows whose texts agree."""
        return self.num_matched / self.num_tokens if self.num_tokens else 1.0

    def read(self, num_sequences: int) -> TokenBatch:
        """The next rows, with a partner for each other model."""
        rows: list[Row] = []
        beside: dict[str, list[tuple[Row, torch.Tensor]]] = {key: [] for key in self.others}
        while len(rows) < num_sequences and (piece := self._next_piece()) is not None:
            row = row_of(self.adapter.tokenize(piece))[: self.context_length]
            if not row:
                continue
            rows.append(row)
            for key, other in self.others.items():
                beside[key].append(self._pair(row, other, piece))
        partners = {}
        for key, paired_rows in beside.items():
            # Rows are as long as the longest one: a model need not have room for more than the documents need.
            tokens = padded([row for row, _ in paired_rows], max((len(row) for row, _ in paired_rows), default=1))
            positions = [position_T for _, position_T in paired_rows]
            none = torch.zeros(0, self.context_length, dtype=torch.int64)
            partners[key] = Partner(tokens, torch.stack(positions) if positions else none)
        own = padded(rows, self.context_length)
        return TokenBatch(own.ids, own.attention, own.bos, own.special, partners)

    def state(self) -> dict[str, Any]:
        """The position, as JSON data."""
        return {**super().state(), "pieces_done": self._pieces_done if self._pieces else 0}

    def restore(self, state: dict[str, Any]) -> None:
        """Go to a position that `state` returned."""
        super().restore(state)
        self._pieces, self._pieces_done = [], 0
        if state["pieces_done"]:
            # The reader was in the middle of a document: go back to it and skip the pieces that are done.
            self._next_document -= 1
            self._next_piece()
            self._pieces = self._pieces[state["pieces_done"] - 1 :]
            self._pieces_done = state["pieces_done"]

    def _next_piece(self) -> Document | None:
        if not self._pieces:
            document = self._next_in_split()
            if document is None:
                return None
            self._pieces, self._pieces_done = self._cut(document), 0
        self._pieces_done += 1
        return self._pieces.pop(0)

    def _cut(self, document: Document) -> list[Document]:
        if isinstance(document, TokenIds):
            raise ConfigError("models with different vocabularies can read texts and chats, but not token ids")
        if not isinstance(document, Text):
            return [document]
        ids = list(self.adapter.tokenize(document).ids)
        if len(ids) <= self.context_length:
            return [document]
        # One token fewer than fits, because each piece gets a beginning-of-sequence token of its own.
        step = self.context_length - 1
        return [Text(self.adapter.text(ids[start : start + step])) for start in range(0, len(ids), step)]

    def _pair(self, row: Row, other: ModelAdapter, piece: Document) -> tuple[Row, torch.Tensor]:
        if isinstance(piece, Chat) and not other.has_chat_template():
            # A model without a chat template reads the conversation as the reading model lays it out.
            piece = Text(self.adapter.text([token for token, _, _ in row]))
        room = min(PARTNER_ROOM * self.context_length, longest_context(other) or PARTNER_ROOM * self.context_length)
        theirs = row_of(other.tokenize(piece))[:room]
        pairs = align([t for t, _, _ in row], [t for t, _, _ in theirs], self.adapter.text, other.text)
        self.num_matched += pairs.num_matched
        self.num_tokens += pairs.num_tokens
        position_T = torch.full((self.context_length,), -1, dtype=torch.int64)
        position_T[torch.tensor(pairs.first, dtype=torch.int64)] = torch.tensor(pairs.second, dtype=torch.int64)
        return theirs, position_T
