"""A sample of one split's documents, drawn from a long stretch of the source and not from its beginning alone."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator, Sequence

from attrs import frozen

from .documents import BadRow, Document, number_of
from .sequences import SequenceReader
from .tokens import TokenSource

STRETCH = 4
"""The documents of a sample are drawn from this many times as much text, or from the whole source if that is less."""
ROUNDS = 16
"""After this many times as many documents as it has, all of them known, a sample takes a source to go round in them."""
SLACK = 1.25
"""A sample has this many times the tokens asked for, because rows are not filled to the last place."""


@frozen
class Documents:
    """A token source of a few documents."""

    items: Sequence[Document]

    def documents(self, *, skip: int = 0) -> Iterator[Document | BadRow]:
        """The documents from number `skip` on."""
        yield from self.items[skip:]


def sample(reader: SequenceReader, num_tokens: int) -> TokenSource:
    """Documents of the split of `reader`, which is at its beginning, that fill `num_tokens` places of rows.

    Their content decides, as it does for splits: those with the smallest numbers are taken, so a sample of fewer tokens
    from the same stretch is a part of one of more. They stay in the order of the source. `ConfigError` as in reading
    rows.
    """
    kept: list[tuple[int, int, int, Document]] = []  # the document's number by content, its place, its size
    wanted, have, stop, known = num_tokens * SLACK, 0, 0, 0
    while not stop or reader.documents.next_document < stop:
        following = reader.documents.next()
        if following is None:
            break
        place, document = following
        by_content = number_of(document)
        if have >= wanted and by_content > kept[-1][0]:
            reader.documents.found()
            continue
        if any(by_content == other[0] for other in kept):
            reader.documents.found()
            known += 1
            if known > ROUNDS * len(kept):
                break
            continue
        size = reader.places(place, document)
        if not size:
            continue
        reader.documents.found()
        known = 0
        insort(kept, (by_content, place, size, document))
        have += size
        while have - kept[-1][2] >= wanted:
            have -= kept.pop()[2]
        if not stop and have >= wanted:
            stop = STRETCH * (place + 1)
    return Documents([document for *_, document in sorted(kept, key=lambda each: each[1])])
