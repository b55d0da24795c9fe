"""The texts of tokens, in one numbering for all models of a study."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ..models.capabilities import token_texts, vocabulary_of

if TYPE_CHECKING:
    from ..analysis.study import Study

SHIFT = 2**24
"""Ids that each further vocabulary may have."""


class Vocabulary:
    """Texts by number.

    A token of the model that reads has its id; one of a model whose tokens are others has a negative number, so that
    one table has the texts of all.
    """

    def __init__(self, study: Study) -> None:
        own = vocabulary_of(study.reading)
        others = [model for model, adapter in study.adapters.items() if vocabulary_of(adapter) != own]
        self._places = {model: place for place, model in enumerate(others)}
        self._adapters = [study.adapters[model] for model in others]
        self._reading = study.reading
        self._texts: dict[int, str] = {}

    def numbers(self, model: str, ids: Sequence[int]) -> list[int]:
        """The numbers of that model's tokens."""
        place = self._places.get(model)
        return list(ids) if place is None else [-1 - token - SHIFT * place for token in ids]

    def texts(self, numbers: Sequence[int]) -> list[str]:
        """The text of each token."""
        try:
            return [self._texts[number] for number in numbers]
        except KeyError:
            self.add(numbers)
            return [self._texts[number] for number in numbers]

    def add(self, numbers: Iterable[int]) -> None:
        """Look up the tokens that were not before."""
        found: dict[int | None, list[int]] = {}
        for number in dict.fromkeys(numbers):
            if number not in self._texts:
                found.setdefault(None if number >= 0 else (-1 - number) // SHIFT, []).append(number)
        for place, missing in found.items():
            adapter = self._reading if place is None else self._adapters[place]
            texts = token_texts(adapter, [number if number >= 0 else (-1 - number) % SHIFT for number in missing])
            self._texts.update(zip(missing, texts, strict=True))

    def all(self) -> dict[int, str]:
        """All texts so far."""
        return dict(self._texts)
