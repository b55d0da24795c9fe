"""Questions to models, and what counts as a hit in their answers: rates with intervals by question."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from statistics import NormalDist
from typing import Any

from attrs import frozen

from crosscoders import AnalysisError, Chat, ConfigError, Study, TokenIds, is_held_out

Judge = Callable[[str, str], bool]
"""From a question and an answer to whether the behaviour is there."""


@frozen
class Hits:
    """Behaviours by name, each with what says whether an answer has it."""

    judges: Mapping[str, Judge]

    @classmethod
    def of(cls, patterns: Mapping[str, str], judge: Any = None) -> Hits:
        """From regular expressions by name, and a judge under the name `judge`: a function, or `module:function`."""
        judges: dict[str, Judge] = {name: _finds(compiled(name, pattern)) for name, pattern in patterns.items()}
        if judge:
            judges["judge"] = loaded(judge)
        return cls(judges)

    def flags(self, questions: Sequence[str], texts: Sequence[str]) -> dict[str, list[bool]]:
        """By behaviour: whether each answer has it."""
        return {
            name: [bool(judge(question, text)) for question, text in zip(questions, texts, strict=True)]
            for name, judge in self.judges.items()
        }


def compiled(name: str, pattern: str) -> re.Pattern[str]:
    """A regular expression; `ConfigError` names the one that is none."""
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"the pattern '{name}' is not a regular expression: {error}") from error


def _finds(pattern: re.Pattern[str]) -> Judge:
    return lambda _, text: pattern.search(text) is not None


def loaded(function: Any) -> Callable[..., Any]:
    """A function of the user's own, itself or as `module:function`."""
    if callable(function):
        given: Callable[..., Any] = function
        return given
    module, _, name = str(function).partition(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"'{function}' should be a function as module:function, and cannot be loaded: {error}"
        ) from error
    if not callable(found):
        raise ConfigError(f"'{function}' is not a function")
    return found  # type: ignore[no-any-return]


def held_out_questions(study: Study, count: int) -> list[str]:
    """The first user messages of held-out chats in the study's token source, without repeats."""
    share = study.activations.held_out_share
    found: dict[str, None] = {}
    for number, document in enumerate(study.source.documents()):
        if isinstance(document, Chat) and is_held_out(document, share) == (share > 0):
            question = next((m.content for m in document.messages if m.role == "user"), "")
            if question:
                found.setdefault(question)
        if len(found) == count:
            return list(found)
        if number > 200_000 or isinstance(document, TokenIds):
            break
    if not found:
        raise AnalysisError("the study's tokens have no chats to take questions from; pass prompts")
    return list(found)


def wilson(hits: float, total: float, confidence: float) -> tuple[float, float]:
    """Wilson's score interval of a proportion of `total` independent answers, which may be an effective number."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p, q = hits / total, z * z / total
    centre, spread = p + q / 2, z * math.sqrt(p * (1 - p) / total + q / (4 * total))
    low = 0.0 if hits == 0 else (centre - spread) / (1 + q)
    high = 1.0 if hits == total else (centre + spread) / (1 + q)
    return low, high


def design_effect(flags: Sequence[bool], per_question: int) -> float:
    """By how much answers that share questions are worth less than independent ones: at least 1.

    The variance of the rate over questions (ultimate clusters; Kish 1965) over that of as many independent answers.
    """
    hits = [sum(flags[i : i + per_question]) for i in range(0, len(flags), per_question)]
    questions, total = len(hits), len(flags)
    p = sum(hits) / total
    if questions < 2 or p in (0.0, 1.0):
        return 1.0
    between = sum((h - p * per_question) ** 2 for h in hits) * questions / (questions - 1) / total**2
    return max(1.0, between / (p * (1 - p) / total))


def by_question(flags: Sequence[bool], per_question: int, confidence: float) -> tuple[float, float]:
    """Wilson's interval of a rate at the number of answers that is left after the design effect of shared questions."""
    effective = len(flags) / design_effect(flags, per_question)
    return wilson(sum(flags) / len(flags) * effective, effective, confidence)
