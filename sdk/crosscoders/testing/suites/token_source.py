"""Rules of token sources."""

from __future__ import annotations

from itertools import islice
from typing import Any

from ...models.documents import BadRow, Chat, Text, TokenIds
from ...plugins.choices import TokenSourceChoice
from ...plugins.registry import Registry
from .base import NamedSuite


class TokenSourceSuite(NamedSuite):
    """Rules of a token source."""

    choice = TokenSourceChoice

    def _source(self, registry: Registry) -> Any:
        return self.chosen(registry).build(registry=registry)

    def test_documents_are_the_same_every_time(self, registry: Registry) -> None:
        first = list(islice(self._source(registry).documents(), 20))
        assert first and first == list(islice(self._source(registry).documents(), 20))
        assert all(isinstance(document, Text | Chat | TokenIds | BadRow) for document in first)

    def test_skipping_goes_on_where_it_says(self, registry: Registry) -> None:
        documents = list(islice(self._source(registry).documents(), 12))
        half = len(documents) // 2
        assert list(islice(self._source(registry).documents(skip=half), len(documents) - half)) == documents[half:]
