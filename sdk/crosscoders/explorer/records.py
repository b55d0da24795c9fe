"""What an explorer shows of a latent, as frozen records, and their form in its data files."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from attrs import field, frozen

from ..converters import as_tuple

Fact = tuple[str, str | float | None]
"""A label, and what is known under it."""


@frozen(kw_only=True)
class Histogram:
    """Activations on the tokens where a latent is active, in bins of equal width."""

    low: float
    high: float
    counts: tuple[int, ...] = field(converter=as_tuple)


@frozen(kw_only=True, eq=False)
class ExampleRecord:
    """A few tokens of one sequence around a place where a latent is active."""

    sequence: int
    """The number of the sequence in the study's tokens."""
    start: int
    stop: int
    """Its positions `start` to `stop`, the latter not included."""
    peak: int
    """Where in `tokens` the place is that the example is of."""
    tokens: tuple[str, ...] = field(converter=as_tuple)
    values: np.ndarray
    """The activation on each token, 0 where it is not active; fp32."""
    shares: Mapping[str, np.ndarray] = field(factory=dict)
    """By model: what its sites bring to the latent's pre-activation on each token, in the crosscoder's units; fp32.

    Empty where only one model is read."""

    @property
    def max(self) -> float:
        """The largest activation in the example."""
        return float(self.values.max())


@frozen(kw_only=True, eq=False)
class Interval:
    """Examples from one part of the activations' range."""

    low: float
    high: float
    """Activations above `low`, up to `high`."""
    share: float
    """Of the tokens on which the latent is active, the share in here."""
    examples: tuple[ExampleRecord, ...] = field(converter=as_tuple)


@frozen(kw_only=True)
class Extremes:
    """The tokens that a latent promotes and suppresses most by its direct path to the logits, at one written site."""

    site: str
    promoted: tuple[tuple[int, float], ...] = field(converter=as_tuple)
    """Token ids with the effect per unit of activation, largest first."""
    suppressed: tuple[tuple[int, float], ...] = field(converter=as_tuple)
    """The same of what it lowers, most negative first."""


@frozen(kw_only=True, eq=False)
class LatentRecord:
    """Everything that an explorer shows of one latent."""

    latent: int
    firings: int
    """Tokens on which it is active."""
    histogram: Histogram
    top: tuple[ExampleRecord, ...] = field(converter=as_tuple)
    """The strongest, one of each sequence, and of several with the same tokens only one."""
    ranges: tuple[Interval, ...] = field(converter=as_tuple)
    logits: tuple[Extremes, ...] = field(converter=as_tuple)
    norms: tuple[float, ...] = field(converter=as_tuple)
    """‖d^s‖ at each written site in raw units, in the order of the sites."""
    nearest: tuple[tuple[int, float], ...] = field(converter=as_tuple)
    """Other latents by the cosine of their decoder rows."""
    together: tuple[tuple[int, float], ...] = field(converter=as_tuple)
    """Other latents by the correlation of being active."""
    facts: tuple[Fact, ...] = field(default=(), converter=as_tuple)


def latent_json(record: LatentRecord) -> dict[str, Any]:
    """The latent as data files have it."""
    return {
        "j": record.latent,
        "hist": {
            "low": rounded(record.histogram.low),
            "high": rounded(record.histogram.high),
            "counts": list(record.histogram.counts),
        },
        "top": [example_json(example) for example in record.top],
        "ranges": [
            {
                "low": rounded(part.low),
                "high": rounded(part.high),
                "share": rounded(part.share),
                "examples": [example_json(example) for example in part.examples],
            }
            for part in record.ranges
        ],
        "logits": [
            {"site": each.site, "promoted": _pairs(each.promoted), "suppressed": _pairs(each.suppressed)}
            for each in record.logits
        ],
        "norms": [rounded(norm) for norm in record.norms],
        "nearest": _pairs(record.nearest),
        "together": _pairs(record.together),
        "facts": [[label, rounded(value) if isinstance(value, float) else value] for label, value in record.facts],
    }


def example_json(example: ExampleRecord) -> list[Any]:
    """`[sequence, start, stop, peak, max, values]`, and the models' shares where there are any.

    Values are base64 of a byte for each token, 255 times the share of `max`; those of models are signed bytes, 127
    times the share of a scale.
    """
    largest = example.max
    # What is active must not look silent, however weak it is.
    share_T = example.values / largest if largest > 0 else np.zeros_like(example.values)
    byte_T = np.where(share_T > 0, np.maximum(1, np.rint(share_T * 255)), 0).astype(np.uint8)
    found: list[Any] = [example.sequence, example.start, example.stop, example.peak, rounded(largest), _base64(byte_T)]
    if example.shares:
        found.append({model: _signed(values_T) for model, values_T in example.shares.items()})
    return found


def rounded(value: float) -> float | None:
    """A number with as many digits as anybody reads; None where it is not finite."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def _signed(values_T: np.ndarray) -> list[Any]:
    scale = float(np.abs(values_T).max(initial=0.0))
    byte_T = np.rint(values_T / scale * 127).astype(np.int8) if scale > 0 else np.zeros(len(values_T), np.int8)
    return [_base64(byte_T), rounded(scale)]


def _base64(byte_T: np.ndarray) -> str:
    return base64.b64encode(byte_T.tobytes()).decode()


def _pairs(pairs: Sequence[tuple[int, float]]) -> list[list[float | int | None]]:
    return [[number, rounded(value)] for number, value in pairs]
