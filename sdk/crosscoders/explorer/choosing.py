"""Which places of a latent are shown: the strongest of different sequences, and random ones from parts of its range."""

from __future__ import annotations

import numpy as np
from attrs import field, frozen
from attrs.validators import and_, ge, le

SLIM_FROM = 16_384
"""Beyond this many latents, less is shown of each unless something else is said."""


@frozen(kw_only=True)
class LatentDetail:
    """How much is shown of each latent."""

    top: int = field(default=20, validator=ge(1))
    """Strongest examples."""
    per_range: int = field(default=5, validator=ge(0))
    """Examples from each part of the range of its activations."""
    shares: int = field(default=20, validator=ge(0))
    """Of the strongest examples, those that show what each model brings, where several are read."""
    ranges: int = field(default=10, validator=ge(1))
    """Parts of equal width of the activations from 0 to the largest."""
    bins: int = field(default=40, validator=ge(1))
    """Of the histogram."""
    before: int = field(default=16, validator=and_(ge(0), le(2**15)))
    """Tokens that an example shows before its place."""
    after: int = field(default=8, validator=and_(ge(0), le(2**15)))
    """And after it."""
    neighbours: int = field(default=8, validator=ge(0))
    """Other latents that are named, by cosine and by being active together."""
    logits: int = field(default=10, validator=ge(0))
    """Tokens that are named as promoted and as suppressed, at each site."""

    @classmethod
    def for_count(cls, count: int) -> LatentDetail:
        """All there is, or what keeps a folder of a great many latents small."""
        return cls() if count <= SLIM_FROM else cls(top=10, per_range=2, shares=5)

    def intervals(self) -> str:
        """What an interval means, in one sentence."""
        return (
            f"The activations from 0 to the largest are cut into {self.ranges} parts of equal width; of each, up to "
            f"{self.per_range} tokens are drawn at random from different sequences, and shown with the tokens around "
            "them, which may be stronger."
        )


CANDIDATES = 8
"""Times as many places as are shown are looked at, since some have the same tokens around them."""


@frozen(eq=False)
class Part:
    """One part of a latent's range."""

    low: float
    high: float
    share: float
    place_K: np.ndarray


def strongest(place_N: np.ndarray, value_N: np.ndarray, length: int, count: int) -> np.ndarray:
    """The places of the `count` largest values of different sequences, largest first; `place_N` increases."""
    if not len(place_N):
        return place_N[:0]
    starts = np.flatnonzero(np.diff(place_N // length, prepend=-1))
    peak_S = np.maximum.reduceat(value_N, starts)
    chosen = np.argsort(-peak_S, kind="stable")[:count]
    stops = np.append(starts[1:], len(place_N))
    return np.array([place_N[s + value_N[s:e].argmax()] for s, e in zip(starts[chosen], stops[chosen], strict=True)])


def parts(
    place_N: np.ndarray, value_N: np.ndarray, length: int, detail: LatentDetail, generator: np.random.Generator
) -> list[Part]:
    """The parts of the range that have any activation, lowest first, with places drawn from each, largest first."""
    largest = float(value_N.max(initial=0.0))
    if largest <= 0:
        return []
    part_N = bin_of(value_N, largest, detail.ranges)
    order_N = generator.permutation(len(place_N))
    found = []
    for part in range(detail.ranges):
        mine_N = order_N[part_N[order_N] == part]
        if len(mine_N):
            _, first = np.unique(place_N[mine_N] // length, return_index=True)
            drawn = mine_N[np.sort(first)[: detail.per_range]]
            drawn = drawn[np.argsort(-value_N[drawn], kind="stable")]
            low, high = (largest * edge / detail.ranges for edge in (part, part + 1))
            found.append(Part(low, high, len(mine_N) / len(place_N), place_N[drawn]))
    return found


def bin_of(value_N: np.ndarray, largest: float, count: int) -> np.ndarray:
    """Which of `count` bins (low, high] of equal width from 0 to `largest` each value is in."""
    return np.clip(np.ceil(value_N / largest * count).astype(np.int64) - 1, 0, count - 1)
