"""Metrics of plugins: further numbers of an evaluation, beside those that every evaluation has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

from attrs import frozen
from torch import Tensor

from ..crosscoder.latents import Latents
from ..crosscoder.module import Crosscoder
from ..devices import precise
from ..errors import CrosscodersError, PluginError, shown
from ..plugins.choices import MetricChoice
from ..plugins.isolation import attempt, worded
from ..plugins.registry import Registry


@frozen(eq=False)
class EvaluationBatch:
    """Some held-out tokens, encoded and decoded with the inference gate."""

    crosscoder: Crosscoder
    x_BX: Tensor
    """Raw activations of all sites, side by side as `crosscoder.layout` says."""
    latents: Latents
    """Their latents."""
    x_hat_BX: Tensor
    """The reconstruction of the written sites, in raw units, side by side as `crosscoder.written` says."""

    @property
    def target_BX(self) -> Tensor:
        """What should have been reconstructed: the columns of `x_BX` that are written."""
        return self.x_BX[:, self.crosscoder.layout.columns(self.crosscoder.written.names)]


class Metric(ABC):
    """The base class of metrics: sums over tokens, and numbers made of the sums over the whole evaluation set.

    The host adds the sums up over batches and processes, so a metric keeps no state.
    """

    @abstractmethod
    def sums(self, batch: EvaluationBatch) -> Tensor:
        """Numbers (K,) of one batch that add up: those of two batches together are the sum of each one's.

        An empty batch has zeros.
        """

    @abstractmethod
    def values(self, sums_K: Tensor, crosscoder: Crosscoder) -> Mapping[str, float]:
        """What is reported, by name, from the sums over all tokens (fp64, on a CPU); NaN where it is not defined."""


class FurtherMetrics:
    """The metrics of an evaluation, summed up over its batches."""

    def __init__(self, metrics: Mapping[str, Metric]) -> None:
        self._metrics = metrics
        self.sums: dict[str, Tensor] = {}

    def add(self, batch: EvaluationBatch) -> None:
        """Add a batch to the sums; `PluginError` names a metric that fails."""
        for name, metric in self._metrics.items():
            found = _of(name, lambda metric=metric: precise(metric.sums(batch)))
            if found.dim() != 1 or (name in self.sums and found.shape != self.sums[name].shape):
                raise PluginError(
                    f"the metric '{name}' gave sums of shape {tuple(found.shape)}, not always the same (K,)"
                )
            self.sums[name] = self.sums[name] + found if name in self.sums else found

    def values(self, crosscoder: Crosscoder) -> dict[str, dict[str, float]]:
        """What each metric makes of its sums, by the name of the metric."""
        found = {}
        for name, sums_K in self.sums.items():
            given = _of(name, lambda name=name, sums_K=sums_K: self._metrics[name].values(sums_K.cpu(), crosscoder))
            try:
                found[name] = {str(key): float(value) for key, value in given.items()}
            except (AttributeError, TypeError, ValueError) as error:
                raise PluginError(f"the metric '{name}' gave {shown(given)}, not numbers by name") from error
        return found


def build_metrics(choices: Iterable[MetricChoice], *, registry: Registry | None = None) -> dict[str, Metric]:
    """The chosen metrics by name."""
    return {choice.name: choice.build(registry=registry) for choice in choices}


def _of(name: str, work: Any) -> Any:
    try:
        return attempt(work)
    except CrosscodersError:
        raise
    except Exception as error:
        raise PluginError(f"the metric '{name}' failed: {worded(error)}") from error
