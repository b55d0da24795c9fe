"""Which phrases did amplification bring out? A search that needs no idea of what to look for.

A phrase is a sequence of up to `longest` words. Its rate is the share of questions with an answer that has it, so that
several answers to one question count once. Ranked is by how much the rate has grown at least: the lower end of Wilson's
interval at α over the upper end without amplification.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from .answers import wilson

NESTED = 0.8
"""A phrase that is part of a longer one in this share of its questions is not listed beside it."""


@frozen
class Phrase:
    """A phrase, in how many of how many questions it came up without and with amplification, and in which answers."""

    text: str
    before: int
    after: int
    questions: int
    growth: float
    """The rate has grown at least by this factor, at the confidence asked for."""
    answers: tuple[int, ...]


def grown(
    before: Sequence[str],
    after: Sequence[str],
    per_question: int,
    *,
    confidence: float = 0.95,
    longest: int = 6,
    count: int = 20,
) -> list[Phrase]:
    """The phrases whose rate has surely grown from the answers `before` to those `after`, by growth, most first.

    Answers are in the order of their questions, `per_question` each. With Bonferroni's correction for all phrases that
    are tried, those in at least two questions.
    """
    total = len(after) // per_question
    ours, theirs = _questions(after, per_question, longest), _questions(before, per_question, longest)
    tried = {words: found for words, found in ours.items() if len(found) >= 2}
    each = 1 - (1 - confidence) / max(1, len(tried))
    growth: dict[tuple[str, ...], float] = {}
    for words, found in tried.items():
        low = wilson(len(found), total, each)[0]
        high = wilson(len(theirs.get(words, ())), len(before) // per_question, each)[1]
        if low > high:
            growth[words] = low / high
    whole = [
        words
        for words in growth
        if not any(_contains(other, words) and len(ours[other]) >= NESTED * len(ours[words]) for other in growth)
    ]
    ranked = sorted(whole, key=lambda words: (-growth[words], -len(words), words))[:count]
    return [
        Phrase(
            " ".join(words), len(theirs.get(words, ())), len(ours[words]), total, growth[words],
            tuple(i for i, text in enumerate(after) if words in _phrases(text, len(words), len(words))),
        )
        for words in ranked
    ]  # fmt: skip


def _questions(texts: Sequence[str], per_question: int, longest: int) -> dict[tuple[str, ...], set[int]]:
    """The numbers of the questions whose answers have each phrase."""
    found: dict[tuple[str, ...], set[int]] = {}
    for number, text in enumerate(texts):
        for words in _phrases(text, 1, longest):
            found.setdefault(words, set()).add(number // per_question)
    return found


def _phrases(text: str, shortest: int, longest: int) -> list[tuple[str, ...]]:
    words = text.split()
    return [
        tuple(words[start : start + length])
        for length in range(shortest, longest + 1)
        for start in range(len(words) - length + 1)
    ]


def _contains(longer: tuple[str, ...], shorter: tuple[str, ...]) -> bool:
    size = len(shorter)
    return size < len(longer) and any(longer[i : i + size] == shorter for i in range(len(longer) - size + 1))
