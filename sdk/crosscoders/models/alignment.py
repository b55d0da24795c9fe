"""Pairing the tokens of two tokenizers by growing windows on decoded text (Jiralerspong and Bricken 2026).

Both sequences are read from the left. A window of tokens on either side grows, the one with the shorter text first,
until both decode to the same text; the last tokens of the two windows, which have read the same characters, are paired.
Text is compared without white space, accents and case, so that tokenizers that strip or lower text can be paired too.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence

from attrs import frozen

MAX_WINDOW = 64
"""The longest window, in tokens: one that grows longer has lost the alignment."""
RESYNC_REACH = 24
"""How many tokens ahead, on either side, to look for a place where the texts agree again."""

CUT_OFF = "\ufffd"
"""The replacement character, which decoders emit for bytes that do not form a whole character."""

Text = Callable[[Sequence[int]], str]
"""A function that decodes token ids."""


@frozen
class Alignment:
    """Paired positions of two token sequences, both in increasing order."""

    first: tuple[int, ...]
    second: tuple[int, ...]
    num_matched: int
    """The number of tokens, of both sides, that lie in windows whose texts agree."""
    num_tokens: int
    """The number of tokens of both sides."""

    @property
    def coverage(self) -> float:
        """Share of the tokens of both sides that lie in matched windows; 1 for empty sequences."""
        return self.num_matched / self.num_tokens if self.num_tokens else 1.0


def align(first_ids: Sequence[int], second_ids: Sequence[int], first_text: Text, second_text: Text) -> Alignment:
    """Pair two tokenizations of the same text. Where the texts differ for a stretch, its tokens stay unpaired."""
    sides = (_Side(first_ids, first_text), _Side(second_ids, second_text))
    pairs: list[tuple[int, int]] = []
    matched = 0
    start = (0, 0)
    while start[0] < len(first_ids) and start[1] < len(second_ids):
        stop = _grow(sides, start)
        if stop is None:
            start = _resync(sides, start)
            continue
        pairs.append((stop[0] - 1, stop[1] - 1))
        matched += stop[0] - start[0] + stop[1] - start[1]
        start = stop
    return Alignment(tuple(i for i, _ in pairs), tuple(j for _, j in pairs), matched, len(first_ids) + len(second_ids))


class _Side:
    """One sequence, with the comparable text of its windows."""

    def __init__(self, ids: Sequence[int], text: Text) -> None:
        self.ids, self._text = ids, text

    def text(self, start: int, stop: int) -> str:
        # Some tokenizers mark a piece that continues a word (`##ing`) unless it is decoded together with the piece
        # before it.
        context = self.ids[max(0, start - 1) : start]
        before = self._text(context) if context else ""
        whole = self._text([*context, *self.ids[start:stop]])
        # A character that was cut off at the end of the context is complete now, and belongs to the window.
        for shown in (before, before.rstrip(CUT_OFF)):
            if whole.startswith(shown):
                return comparable(whole[len(shown) :])
        return comparable(self._text(self.ids[start:stop]))


def comparable(text: str) -> str:
    """The text without white space, accents, case, or a cut-off character at its end."""
    decomposed = unicodedata.normalize("NFKD", text.rstrip(CUT_OFF))
    kept = (c for c in decomposed if not c.isspace() and not unicodedata.combining(c))
    return "".join(kept).casefold()


def _grow(sides: tuple[_Side, _Side], start: tuple[int, int]) -> tuple[int, int] | None:
    """The ends of the shortest windows from `start` with the same text, or None if there are none."""
    stop = [start[0] + 1, start[1] + 1]
    while True:
        texts = [side.text(start[n], stop[n]) for n, side in enumerate(sides)]
        if texts[0] == texts[1] and texts[0]:
            return stop[0], stop[1]
        shorter = 0 if len(texts[0]) <= len(texts[1]) else 1
        if not texts[1 - shorter].startswith(texts[shorter]):
            return None
        if stop[shorter] == len(sides[shorter].ids) or stop[shorter] - start[shorter] == MAX_WINDOW:
            return None
        if texts[0] == texts[1]:  # both empty: characters that no window shows, such as white space
            stop[1] = min(stop[1] + 1, len(sides[1].ids))
        stop[shorter] += 1


def _resync(sides: tuple[_Side, _Side], start: tuple[int, int]) -> tuple[int, int]:
    """The nearest later place where windows agree on at least three characters, or both ends if there is none."""
    for distance in range(1, 2 * RESYNC_REACH):
        for ahead in range(max(0, distance - RESYNC_REACH), min(distance, RESYNC_REACH) + 1):
            place = (start[0] + ahead, start[1] + distance - ahead)
            if place[0] >= len(sides[0].ids) or place[1] >= len(sides[1].ids):
                continue
            stop = _grow(sides, place)
            if stop is not None and len(sides[0].text(place[0], stop[0])) >= 3:
                return place
    return len(sides[0].ids), len(sides[1].ids)
