"""Several token sources as one, such as half running text and half chats."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from attrs import field, frozen
from attrs.validators import min_len

from crosscoders import ConfigError, Document, TokenSourceChoice


@frozen(kw_only=True)
class MixtureConfig:
    """Sources and how often each is drawn from."""

    sources: tuple[TokenSourceChoice, ...] = field(validator=min_len(1))
    """The sources; each starts again when it ends."""
    weights: tuple[float, ...] = ()
    """Documents of each in the mixture, relative to the others; empty means equally many."""

    def __attrs_post_init__(self) -> None:
        if self.weights and (len(self.weights) != len(self.sources) or min(self.weights) <= 0):
            raise ConfigError(f"weights should be {len(self.sources)} positive numbers, not {list(self.weights)}")


class Mixture:
    """Token source `mixture`; which source comes next is fixed by the weights alone."""

    def __init__(self, config: MixtureConfig) -> None:
        self.config = config
        self.sources = [choice.build() for choice in config.sources]

    def documents(self, *, skip: int = 0) -> Iterator[Document]:
        """Documents without end."""
        return islice(self._all(), skip, None)

    def _all(self) -> Iterator[Document]:
        weights = self.config.weights or (1.0,) * len(self.sources)
        streams = [self._endless(number) for number in range(len(self.sources))]
        given = [0] * len(self.sources)
        while True:
            # The source furthest behind its share goes next.
            number = min(range(len(given)), key=lambda i: (given[i] + 1) / weights[i])
            given[number] += 1
            yield next(streams[number])

    def _endless(self, number: int) -> Iterator[Document]:
        while True:
            empty = True
            for document in self.sources[number].documents():
                empty = False
                yield document
            if empty:
                raise ConfigError(f"the source '{self.config.sources[number].name}' of the mixture has no documents")
