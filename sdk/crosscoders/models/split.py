"""One split of a token source, document by document, with a position that can be saved."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from ..errors import ConfigError
from .documents import BadRow, Document, Origin, is_held_out
from .tokens import TokenSource

Split = Literal["train", "held_out"]

SEARCH_DOCUMENTS = 10_000
"""Successive documents of an endless source that may give nothing before it is given up."""
SEARCH_LIMIT = 1_000_000
"""The same at most, where a split is a small share of the documents."""


class SplitReader:
    """Documents of one split by number; where the source ends, a pass is over, and `begin_pass` starts the next.

    Rows that are not documents are passed over and counted if their source says so. `ConfigError` if a whole pass, or
    very many successive documents, give nothing.
    """

    def __init__(self, source: TokenSource, split: Split = "train", held_out_share: float = 0.0) -> None:
        self.source, self.split, self.held_out_share = source, split, held_out_share
        self.next_document = 0
        """Number of the document that is read next."""
        self.passes = 0
        """How often the source has been read to its end."""
        self.skipped = 0
        """Bad rows passed over in the first pass: later ones meet the same."""
        self.first_skipped = ""
        """The first of them since this reader was made, and why, for people."""
        self._documents: Iterator[Document | BadRow] | None = None
        self._searched = 0  # documents read since the last one that was of use
        self._from_start = True  # whether those are all documents of this pass so far

    def next(self) -> tuple[int, Document] | None:
        """The next document of this split and its number; None where a pass is over."""
        while True:
            if self._searched >= self._limit:
                raise self._nothing("first ")
            if self._documents is None:
                self._documents = iter(self.source.documents(skip=self.next_document))
                self._from_start = self.next_document == 0
            document = next(self._documents, None)
            if document is None:
                if self._from_start:
                    raise self._nothing("")
                return None
            number = self.next_document
            self.next_document += 1
            self._searched += 1
            if isinstance(document, BadRow):
                self.skip(document.origin, document.reason)
            elif is_held_out(document, self.held_out_share) == (self.split == "held_out"):
                return number, document

    def found(self) -> None:
        """Say that the last document was of use."""
        self._searched, self._from_start = 0, False

    def skip(self, origin: Origin, reason: str) -> None:
        """Count a bad row, unless it was met before."""
        if self.passes == 0 and not origin.again:
            self.skipped += 1
        self.first_skipped = self.first_skipped or f"{origin.place}: {reason}"

    def begin_pass(self) -> None:
        """Go to the first document again."""
        self._documents, self.next_document, self.passes = None, 0, self.passes + 1

    def state(self) -> dict[str, Any]:
        """The position, as JSON data."""
        return {"next_document": self.next_document, "passes": self.passes, "skipped": self.skipped}

    def restore(self, state: dict[str, Any], *, first: int) -> Iterator[tuple[int, Document]]:
        """Go to a position that `state` returned; documents from number `first` up to it are given on the way."""
        stop = state["next_document"]
        self.passes, self.skipped = state["passes"], state["skipped"]
        self._documents, self.next_document, self._searched = None, stop, 0
        if first < stop:
            self._documents, self._from_start = iter(self.source.documents(skip=first)), False
            for number in range(first, stop):
                document = next(self._documents, None)
                if document is None:
                    raise ConfigError(
                        f"the token source {type(self.source).__name__} had {stop:,} documents when its position was "
                        "saved and has fewer now; give it the same documents as before"
                    )
                if not isinstance(document, BadRow):
                    yield number, document

    @property
    def _limit(self) -> int:
        share = self.held_out_share if self.split == "held_out" else 1 - self.held_out_share
        return max(SEARCH_DOCUMENTS, int(min(SEARCH_LIMIT, 30 / share if share else SEARCH_LIMIT)))

    def _nothing(self, which: str) -> ConfigError:
        skipped = ""
        if self.first_skipped:
            skipped = f"; {self.skipped:,} rows were skipped, the first because of {self.first_skipped}"
        return ConfigError(
            f"the token source {type(self.source).__name__} has no document in its {self.split} split that gives "
            f"tokens, among its {which}{self._searched:,} documents; give it more documents or change "
            f"activations.held_out_share, which is {self.held_out_share}{skipped}"
        )
