"""Rules of metrics, on a crosscoder that was briefly trained on the planted pair."""

from __future__ import annotations

import math
from pathlib import Path

import attrs
import pytest
import torch
from torch import Tensor

from ...analysis.study import Study
from ...devices import precise
from ...plugins.choices import MetricChoice
from ...plugins.registry import Registry
from ...training import EvaluationBatch, Metric, evaluate
from .base import NamedSuite


class MetricSuite(NamedSuite):
    """Rules of a metric, on a crosscoder that was briefly trained on the planted pair."""

    choice = MetricChoice

    @pytest.fixture
    def study(self, planted_study: Study) -> Study:
        """The study to evaluate on; override it to use something other than the planted pair."""
        return planted_study

    @pytest.fixture
    def metric(self, registry: Registry) -> Metric:
        """The metric under test."""
        metric: Metric = self.chosen(registry).build(registry=registry)
        return metric

    def _x_BX(self, study: Study) -> Tensor:
        return next(iter(study.batches())).x_BX[:60]

    def _sums(self, metric: Metric, study: Study, x_BX: Tensor) -> Tensor:
        latents = study.crosscoder.encode(x_BX)
        x_hat_BX = study.crosscoder.decode(latents, x_BX if study.crosscoder.wiring.skip else None)
        return precise(metric.sums(EvaluationBatch(study.crosscoder, x_BX, latents, x_hat_BX.detach())))

    def test_sums_of_two_batches_add_up(self, metric: Metric, study: Study) -> None:
        x_BX = self._x_BX(study)
        parts = [self._sums(metric, study, part) for part in (x_BX[:23], x_BX[23:])]
        assert parts[0].dim() == 1 and parts[0].shape == parts[1].shape
        torch.testing.assert_close(parts[0] + parts[1], self._sums(metric, study, x_BX), rtol=1e-4, atol=1e-4)

    def test_an_empty_batch_adds_nothing(self, metric: Metric, study: Study) -> None:
        empty_K = self._sums(metric, study, self._x_BX(study)[:0])
        assert not bool(empty_K.any()) and empty_K.shape == self._sums(metric, study, self._x_BX(study)).shape

    def test_its_numbers_have_names_and_are_the_same_every_time(
        self, metric: Metric, study: Study, registry: Registry
    ) -> None:
        first, again = (evaluate(study.crosscoder, [self._x_BX(study)], metrics={self.name: metric}) for _ in range(2))
        assert first.further == again.further and first.further[self.name]
        assert all(math.isfinite(value) for value in first.further[self.name].values())

    def test_a_study_has_it(self, study: Study, registry: Registry) -> None:
        study.registry = registry
        found = study.with_tokens(256).evaluate([{"name": self.name, **self.options}])
        assert [row["metric"] for row in found.further_table()] == [self.name] * len(found.further[self.name])

    def test_it_changes_nothing_in_the_crosscoder(self, metric: Metric, study: Study) -> None:
        before = {key: value.clone() for key, value in study.crosscoder.state_dict().items()}
        self._sums(metric, study, self._x_BX(study))
        for key, value in study.crosscoder.state_dict().items():
            assert torch.equal(value, before[key]), key

    def test_the_card_shows_it(self, metric: Metric, study: Study, tmp_path: Path) -> None:
        crosscoder = study.crosscoder
        assert crosscoder.info is not None
        found = evaluate(crosscoder, [self._x_BX(study)], metrics={self.name: metric})
        crosscoder.info = attrs.evolve(crosscoder.info, metrics=attrs.asdict(found))
        card = (crosscoder.save_pretrained(tmp_path / "saved") / "README.md").read_text(encoding="utf-8")
        for name in found.further[self.name]:
            assert f"| `{self.name}`: {name} |" in card
