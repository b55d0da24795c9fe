"""Several token sources as one, such as half running text and half chats."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from attrs import evolve, field, frozen
from attrs.validators import min_len

from crosscoders import BadRow, ConfigError, Document, TokenSourceChoice


@frozen(kw_only=True)
class MixtureConfig:
    """The sources, and how often each is drawn from."""

    sources: tuple[TokenSourceChoice, ...] = field(validator=min_len(1))
    """The sources to mix; a source that ends starts again."""
    weights: tuple[float, ...] = ()
    """Relative number of documents from each source; empty draws equally many from all."""

    def __attrs_post_init__(self) -> None:
        if self.weights and (len(self.weights) != len(self.sources) or min(self.weights) <= 0):
            raise ConfigError(f"weights should be {len(self.sources)} positive numbers, not {list(self.weights)}")


class Mixture:
    """Token source `mixture`. The weights alone decide which source comes next; nothing is random."""

    def __init__(self, config: MixtureConfig) -> None:
        self.config = config
        self.sources = [choice.build() for choice in config.sources]

    def documents(self, *, skip: int = 0) -> Iterator[Document | BadRow]:
        """Yield documents endlessly."""
        return islice(self._all(), skip, None)

    def _all(self) -> Iterator[Document | BadRow]:
        weights = self.config.weights or (1.0,) * len(self.sources)
        streams = [self._endless(number) for number in range(len(self.sources))]
        given = [0] * len(self.sources)
        while True:
            # The source that is furthest behind its share comes next.
            number = min(range(len(given)), key=lambda i: (given[i] + 1) / weights[i])
            given[number] += 1
            yield next(streams[number])

    def _endless(self, number: int) -> Iterator[Document | BadRow]:
        again = False
        while True:
            empty = True
            for document in self.sources[number].documents():
                empty = False
                yield _met_before(document) if again else document
            again = True
            if empty:
                raise ConfigError(f"the source '{self.config.sources[number].name}' of the mixture has no documents")


def _met_before(document: Document | BadRow) -> Document | BadRow:
    """`document`, which is not to be counted if it has to be skipped: it was when its source was first read."""
    origin = document.origin
    return document if origin is None else evolve(document, origin=evolve(origin, again=True))
