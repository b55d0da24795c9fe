"""Numbered samples of a data set, for models that read no text; see the adapter `ModuleAdapter`."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from attrs import field, frozen
from attrs.validators import ge

from crosscoders import TokenIds


@frozen(kw_only=True)
class SamplesConfig:
    """Which samples, in which order."""

    count: int = field(validator=ge(1))
    """Number of samples in the data set."""
    positions: int = field(default=1, validator=ge(1))
    """Positions of each sample: patches of an image, steps of a series; 1 where a sample has one activation."""
    seed: int = 0
    """Seed of the order in which samples are read."""


class Samples:
    """Token source `samples`: one document for each sample, of the ids n·P to n·P + P − 1."""

    def __init__(self, options: SamplesConfig) -> None:
        self.options = options

    def documents(self, *, skip: int = 0) -> Iterator[TokenIds]:
        """The documents from number `skip` on."""
        count, positions = self.options.count, self.options.positions
        order = torch.randperm(count, generator=torch.Generator().manual_seed(self.options.seed))
        for number in order[skip:].tolist():
            yield TokenIds(tuple(range(number * positions, (number + 1) * positions)))
