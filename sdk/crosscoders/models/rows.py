"""Pieces of documents, and rows of them as tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from attrs import field, frozen
from torch import Tensor

from .tokens import Partner, TokenBatch, Tokenized


@frozen(eq=False)
class PartnerPiece:
    """A piece as another model's tokenizer reads it."""

    tokens: Tokenized
    pairs: Sequence[tuple[int, int]]
    """Places of paired tokens: in the piece, and in `tokens`."""
    num_matched: int
    """Tokens of both models in windows whose texts agree."""


@frozen(eq=False)
class Piece:
    """What a row takes of one document: all of it, or as much as a row can hold."""

    document: int
    """Number of the document in its source."""
    offset: int
    """Where in the document's tokens it begins."""
    tokens: Tokenized
    size: int
    """Places that it takes in a row."""
    partners: Mapping[str, PartnerPiece] = field(factory=dict)


Row = Sequence[Piece]


def batch_of(rows: Sequence[Row], length: int, partners: Sequence[str] = ()) -> TokenBatch:
    """Rows of at most `length` tokens, padded on the right, with those of each partner beside them."""
    own = _tensors([[(piece.document, piece.tokens) for piece in row] for row in rows], length)
    return TokenBatch(
        own.ids,
        own.attention,
        own.bos,
        own.special,
        {key: _partner(rows, length, key) for key in partners},
        own.document,
        own.wanted,
    )


def _partner(rows: Sequence[Row], length: int, key: str) -> Partner:
    theirs = [[(piece.document, piece.partners[key].tokens) for piece in row] for row in rows]
    # As long as the longest row: a model need not have room for what no document fills.
    longest = max((sum(len(tokens.ids) for _, tokens in row) for row in theirs), default=0)
    position_BT = torch.full((len(rows), length), -1, dtype=torch.int64)
    for number, row in enumerate(rows):
        mine = beside = 0
        for piece in row:
            pairs = torch.tensor(piece.partners[key].pairs, dtype=torch.int64).reshape(-1, 2)
            position_BT[number, pairs[:, 0] + mine] = pairs[:, 1] + beside
            mine, beside = mine + len(piece.tokens.ids), beside + len(piece.partners[key].tokens.ids)
    return Partner(_tensors(theirs, max(1, longest)), position_BT)


def _tensors(rows: Sequence[Sequence[tuple[int, Tokenized]]], length: int) -> TokenBatch:
    shape = (len(rows), length)
    ids, document = torch.zeros(shape, dtype=torch.int64), torch.full(shape, -1, dtype=torch.int64)
    bos, special = (torch.zeros(shape, dtype=torch.bool) for _ in range(2))
    wanted = torch.ones(shape, dtype=torch.bool)
    for number, row in enumerate(rows):
        start = 0
        for index, tokens in row:
            place = slice(start, start + len(tokens.ids))
            ids[number, place] = _tensor(tokens.ids, torch.int64)
            bos[number, place] = _tensor(tokens.bos, torch.bool)
            special[number, place] = _tensor(tokens.special, torch.bool)
            document[number, place] = index
            if tokens.wanted is not None:
                wanted[number, place] = _tensor(tokens.wanted, torch.bool)
            start = place.stop
    return TokenBatch(ids, document >= 0, bos, special, {}, document, None if bool(wanted.all()) else wanted)


def _tensor(values: Sequence[int] | Sequence[bool], dtype: torch.dtype) -> Tensor:
    return torch.tensor(list(values), dtype=dtype)
