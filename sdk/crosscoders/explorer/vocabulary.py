"""The texts of tokens, in one numbering for all models of a study."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ..models.capabilities import token_texts, vocabulary_of

if TYPE_CHECKING:
    from ..analysis.study import Study

SHIFT = 2**24
"""What stands between the ids of one vocabulary and those of the next; no vocabulary is as large."""


class Vocabulary:
    """Texts by id. Ids are those of the model that reads; where another model's tokens are others, they are shifted by
    a multiple of 2²⁴, so that one table has the texts of all."""

    def __init__(self, study: Study) -> None:
        own = vocabulary_of(study.reading)
        self._adapters = {0: study.reading}
        self._shifts: dict[str, int] = {}
        for number, (model, adapter) in enumerate(study.adapters.items(), start=1):
            self._shifts[model] = 0 if vocabulary_of(adapter) == own else SHIFT * number
            self._adapters.setdefault(self._shifts[model], adapter)
        self._texts: dict[int, str] = {}

    def shift(self, model: str) -> int:
        """What is added to that model's ids."""
        return self._shifts[model]

    def texts(self, ids: Sequence[int]) -> list[str]:
        """The text of each id."""
        self.add(ids)
        return [self._texts[token] for token in ids]

    def add(self, ids: Iterable[int]) -> None:
        """Look up the ids that were not before."""
        by_shift: dict[int, list[int]] = {}
        for token in dict.fromkeys(ids):
            if token not in self._texts:
                by_shift.setdefault(token // SHIFT * SHIFT, []).append(token)
        for shift, found in by_shift.items():
            texts = token_texts(self._adapters[shift], [token - shift for token in found])
            self._texts.update(zip(found, texts, strict=True))

    def all(self) -> dict[int, str]:
        """All texts so far."""
        return dict(self._texts)
