"""Rows for models with different tokenizers: each reads the same text in its own tokens, which are then paired."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ConfigError
from .adapter import ModelAdapter
from .alignment import align
from .capabilities import reads_text, vocabulary_of
from .context import check_context, longest_context
from .documents import Chat, Document, Text, TokenIds
from .rows import PartnerPiece, Piece, Row, batch_of
from .sequences import Opened, SequenceReader
from .split import Split
from .tokens import TokenBatch, Tokenized, TokenSource

PARTNER_ROOM = 3
"""A partner's row may be this many times as long as the reading model's, as far as the partner has positions; the rest
is cut off."""


def make_reader(
    source: TokenSource,
    adapters: Mapping[str, ModelAdapter],
    reading: ModelAdapter,
    *,
    context_length: int,
    pack: bool | str = True,
    split: Split = "train",
    held_out_share: float = 0.0,
    repeat: bool = True,
    roles: Sequence[str] = (),
) -> SequenceReader:
    """A reader for all `adapters`: a plain one if their vocabularies agree, a `PairedReader` otherwise.

    With `pack`, every adapter has to keep the documents of a row apart: see `choice.choose_pack`.
    """
    check_context(adapters, context_length)
    others = {key: adapter for key, adapter in adapters.items() if vocabulary_of(adapter) != vocabulary_of(reading)}
    options: dict[str, Any] = {
        "context_length": context_length,
        "pack": pack,
        "split": split,
        "held_out_share": held_out_share,
        "repeat": repeat,
        "roles": roles,
    }
    if others:
        return PairedReader(source, reading, others, **options)
    return SequenceReader(source, reading, **options)


class PairedReader(SequenceReader):
    """Reads documents in the tokens of `adapter` and, side by side, in those of the `others`.

    A long text is cut where the reading model's tokens are full and read anew from there by every model; a long chat is
    cut off. Pieces share a row, or follow each other, where there is room for the tokens of every model.
    """

    def __init__(
        self,
        source: TokenSource,
        adapter: ModelAdapter,
        others: Mapping[str, ModelAdapter],
        *,
        context_length: int,
        pack: bool | str = True,
        split: Split = "train",
        held_out_share: float = 0.0,
        repeat: bool = True,
        roles: Sequence[str] = (),
    ) -> None:
        if pack == "across":
            raise ConfigError(
                "pack = 'across' runs documents of one tokenizer together, and the models here have several; use true "
                "or false"
            )
        what = "pairing models of different vocabularies"
        self.text = reads_text(adapter, what)
        self.others = {key: reads_text(other, what) for key, other in others.items()}
        self._longest = {key: longest_context(other) for key, other in others.items()}
        super().__init__(
            source,
            adapter,
            context_length=context_length,
            pack=pack,
            split=split,
            held_out_share=held_out_share,
            repeat=repeat,
            roles=roles,
        )
        self.num_matched = self.num_tokens = 0

    @property
    def coverage(self) -> float:
        """The share of all tokens read so far, of all models, that lie in windows whose texts agree."""
        return self.num_matched / self.num_tokens if self.num_tokens else 1.0

    def _batch(self, rows: list[Row]) -> TokenBatch:
        for piece in (piece for row in rows for piece in row):
            for partner in piece.partners.values():
                self.num_matched += partner.num_matched
                self.num_tokens += len(piece.tokens.ids) + len(partner.tokens.ids)
        return batch_of(rows, self.context_length, list(self.others))

    def _tokenize(self, document: Document) -> Tokenized:
        if isinstance(document, TokenIds):
            raise ConfigError("models with different vocabularies can read texts and chats, but not token ids")
        return super()._tokenize(document)

    def _cut(self, opened: Opened) -> Piece:
        document, tokens = opened.document, opened.tokens
        if isinstance(document, Text) and len(tokens.ids) > self.context_length:
            window = tokens.ids[opened.offset : opened.offset + self._step]
            document = Text(self.text.text(window), origin=document.origin)
            tokens = self.text.tokenize(document)
        tokens, _ = tokens.cut(0, self.context_length)
        partners = {key: self._pair(tokens, key, document) for key in self.others}
        sizes = [-(-len(partner.tokens.ids) // PARTNER_ROOM) for partner in partners.values()]
        return Piece(opened.number, opened.offset, tokens, max(len(tokens.ids), *sizes), partners)

    def _after(self, opened: Opened, piece: Piece) -> int:
        if isinstance(opened.document, Text) and len(opened.tokens.ids) > self.context_length:
            return opened.offset + self._step
        return len(opened.tokens.ids)

    @property
    def _step(self) -> int:
        # One token fewer than fits, because each piece gets a beginning-of-sequence token of its own.
        return self.context_length - 1

    def _pair(self, tokens: Tokenized, key: str, piece: Document) -> PartnerPiece:
        other = self.others[key]
        if isinstance(piece, Chat) and not other.has_chat_template():
            # A model without a chat template reads the conversation as the reading model lays it out.
            piece = Text(self.text.text(tokens.ids), origin=piece.origin)
        room = PARTNER_ROOM * self.context_length
        theirs, _ = other.tokenize(piece).cut(0, min(room, self._longest[key] or room))
        pairs = align(tokens.ids, theirs.ids, self.text.text, other.text)
        return PartnerPiece(theirs, list(zip(pairs.first, pairs.second, strict=True)), pairs.num_matched)
