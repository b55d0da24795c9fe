"""Cutting documents into token rows of one length, with a position that can be saved.

A position is a few pairs of document and offset, however long the documents are; going back to it reads those documents
again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import define, evolve

from ..errors import ConfigError, DocumentError
from .adapter import ModelAdapter
from .capabilities import lays_out_chats, tokenized
from .documents import Document
from .packing import Packing
from .rows import Piece, Row, batch_of
from .split import Split, SplitReader
from .tokens import TokenBatch, Tokenized, TokenSource

LOOK_AHEAD = 32
"""Pieces kept waiting for a row that they fit into; with 32 about 2 % of the places stay empty."""

PACKINGS: Mapping[bool | str, Packing] = {True: "apart", False: "single", "across": "across"}
"""What the values of `activations.pack` ask for."""


def reading_adapter(adapters: Mapping[str, ModelAdapter], tokenizer: str = "") -> ModelAdapter:
    """The model whose tokenizer is used: the named one, else the first with a chat template, else the first."""
    if tokenizer:
        if tokenizer not in adapters:
            raise ConfigError(f"tokenizer is '{tokenizer}', but the models are {', '.join(adapters)}")
        return adapters[tokenizer]
    return next((a for a in adapters.values() if lays_out_chats(a)), next(iter(adapters.values())))


@define(eq=False)
class Opened:
    """A document that is being cut into pieces."""

    number: int
    document: Document
    tokens: Tokenized
    offset: int = 0


class SequenceReader:
    """Makes rows of `context_length` tokens.

    With `pack`, a row has as many documents as fit, each to be read as if it were alone (`TokenBatch.document`), and
    pieces wait for a row that has room for them; without, each document has a row of its own, padded on the right. In
    both, a document longer than a row is cut into several, each read as a document by itself that begins with the same
    beginning-of-sequence token. With `pack="across"`, documents follow each other as one text, cut wherever a row is
    full. When the source ends, it is read again from its beginning; with `repeat=False` the last rows are fewer. With
    `roles`, tokens of conversations say whether they are of one of these (`TokenBatch.wanted`).
    """

    def __init__(
        self,
        source: TokenSource,
        adapter: ModelAdapter,
        *,
        context_length: int,
        pack: bool | str = True,
        split: Split = "train",
        held_out_share: float = 0.0,
        repeat: bool = True,
        roles: Sequence[str] = (),
    ) -> None:
        self.roles = tuple(roles)
        self.source, self.adapter, self.context_length, self.repeat = source, adapter, context_length, repeat
        self.packing: Packing = PACKINGS[pack]
        self.documents = SplitReader(source, split, held_out_share)
        self._open: Opened | None = None
        self._waiting: list[Piece] = []

    @property
    def passes(self) -> int:
        """The number of times that the source has been read to its end."""
        return self.documents.passes

    @property
    def skipped(self) -> int:
        """Rows of the source that held no document for this model and were passed over."""
        return self.documents.skipped

    def read(self, num_sequences: int) -> TokenBatch:
        """The next rows; fewer than asked for only at the end of a source that is not repeated."""
        rows: list[Row] = []
        while len(rows) < num_sequences and (row := self._next_row()):
            rows.append(row)
        return self._batch(rows)

    def places(self, number: int, document: Document) -> int:
        """How many places of rows a document takes; 0 if it has no tokens or is passed over."""
        opened = self._opened(number, document)
        size = len(opened.tokens.ids) if opened else 0
        return -(-size // self.context_length) * self.context_length if self.packing == "single" else size

    def state(self) -> dict[str, Any]:
        """The position, as JSON data."""
        opened = [[self._open.number, self._open.offset]] if self._open else []
        waiting = [[piece.document, piece.offset] for piece in self._waiting]
        return {**self.documents.state(), "open": opened, "waiting": waiting}

    def restore(self, state: dict[str, Any]) -> None:
        """Go to a position that `state` returned.

        `ConfigError` if the source has become shorter or `state` is not a position.
        """
        _check_position(state)
        self._open, self._waiting = None, []
        wanted = {number for number, _ in [*state["open"], *state["waiting"]]}
        first = min(wanted, default=state["next_document"])
        found: dict[int, Opened] = {}
        for number, document in self.documents.restore(state, first=first):
            opened = self._opened(number, document) if number in wanted else None
            if opened is not None:
                found[number] = opened
        if wanted - set(found):
            raise ConfigError(
                f"document {min(wanted - set(found))} of the token source {type(self.source).__name__} is no longer "
                "what it was when a position in it was saved; give the source the same documents as before"
            )
        for number, offset in state["waiting"]:
            found[number].offset = offset
            self._waiting.append(self._cut(found[number]))
        for number, offset in state["open"]:
            self._open = found[number]
            self._open.offset = offset

    # -- rows ---------------------------------------------------------------------------------------------------

    def _batch(self, rows: list[Row]) -> TokenBatch:
        tokens = batch_of(rows, self.context_length)
        if self.packing == "across":
            return evolve(tokens, partners={}, document=None)
        return tokens

    def _next_row(self) -> Row:
        """The pieces of the next row; none at the end of a source that is not repeated."""
        if self.packing == "across":
            return self._run_on()
        while len(self._waiting) < LOOK_AHEAD:
            # Rows do not reach over the end of a pass, so that no document is twice in one.
            if not self._has_open(begin_pass=not self._waiting):
                break
            piece = self._take()
            if not piece.tokens.ids:
                continue
            if self.packing == "single" or piece.size >= self.context_length:
                return [piece]
            self._waiting.append(piece)
        return self._fill()

    def _fill(self) -> Row:
        """The piece that has waited longest and, one after the other, the largest that there is room for."""
        if not self._waiting:
            return []
        row = [self._waiting.pop(0)]
        room = self.context_length - row[0].size
        while True:
            sizes = [piece.size if piece.size <= room else 0 for piece in self._waiting]
            if not any(sizes):
                return row
            row.append(self._waiting.pop(sizes.index(max(sizes))))
            room -= row[-1].size

    def _run_on(self) -> Row:
        row: list[Piece] = []
        room = self.context_length
        while room and self._has_open(begin_pass=True):
            assert self._open is not None
            tokens = self._open.tokens.part(self._open.offset, self._open.offset + room)
            row.append(Piece(self._open.number, self._open.offset, tokens, len(tokens.ids)))
            self._moved(self._open.offset + len(tokens.ids))
            room -= row[-1].size
        return row

    # -- documents ----------------------------------------------------------------------------------------------

    def _has_open(self, *, begin_pass: bool) -> bool:
        """Whether there is a document to take pieces of, having opened the next one if there was not."""
        while self._open is None:
            following = self.documents.next()
            if following is not None:
                self._open = self._opened(*following)
                if self._open is not None:
                    self.documents.found()
            elif self.repeat and begin_pass:
                self.documents.begin_pass()
            else:
                return False
        return True

    def _opened(self, number: int, document: Document) -> Opened | None:
        """A document with its tokens; None where it has none, or should be skipped because the model refuses it."""
        place = document.origin.place if document.origin else f"document {number} of {type(self.source).__name__}"
        try:
            tokens = self._tokenize(document)
        except DocumentError as error:
            if document.origin and document.origin.bad_rows == "skip":
                self.documents.skip(document.origin, str(error))
                return None
            raise ConfigError(f"{place}: {error}") from error
        return Opened(number, document, tokens) if len(tokens.ids) else None

    def _take(self) -> Piece:
        """The next piece of the open document, which is closed after its last."""
        assert self._open is not None
        piece = self._cut(self._open)
        self._moved(self._after(self._open, piece))
        return piece

    def _moved(self, offset: int) -> None:
        assert self._open is not None
        self._open.offset = offset
        if offset >= len(self._open.tokens.ids):
            self._open = None

    # -- what a piece is, to be replaced by readers of several models ---------------------------------------------

    def _tokenize(self, document: Document) -> Tokenized:
        return tokenized(self.adapter, document, self.roles)

    def _cut(self, opened: Opened) -> Piece:
        """The piece at the document's offset."""
        tokens, _ = opened.tokens.cut(opened.offset, self.context_length)
        return Piece(opened.number, opened.offset, tokens, len(tokens.ids))

    def _after(self, opened: Opened, piece: Piece) -> int:
        """Where the document's next piece begins."""
        return opened.tokens.cut(opened.offset, self.context_length)[1]


def _check_position(state: Any) -> None:
    """Raise `ConfigError` unless `state` is what `SequenceReader.state` returns."""
    numbers = [state.get(key) for key in ("next_document", "passes", "skipped")] if isinstance(state, dict) else [None]
    for key in ("open", "waiting"):
        pairs = state.get(key) if isinstance(state, dict) else None
        for pair in pairs if isinstance(pairs, list) and len(pairs) <= LOOK_AHEAD else [None]:
            numbers += pair if isinstance(pair, list) and len(pair) == 2 else [None]
    if any(type(number) is not int or number < 0 for number in numbers):
        raise ConfigError("the saved position in the token source is damaged; go back to an earlier checkpoint")
