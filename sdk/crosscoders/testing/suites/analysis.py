"""Rules of analyses, on a crosscoder that was briefly trained on the planted pair."""

from __future__ import annotations

import json

import pytest
import torch

from ...analysis.study import Study
from ...plugins.choices import AnalysisChoice
from ...plugins.registry import Registry
from ...reports import Report
from .base import NamedSuite


class AnalysisSuite(NamedSuite):
    """Rules of an analysis, on a crosscoder that was briefly trained on the planted pair."""

    choice = AnalysisChoice

    @pytest.fixture
    def study(self, planted_study: Study) -> Study:
        """The study to run on; override it to use something other than the planted pair."""
        return planted_study

    def _report(self, study: Study, registry: Registry) -> Report:
        report: Report = self.chosen(registry).build(registry=registry).run(study)
        return report

    def test_it_gives_a_report_with_json(self, study: Study, registry: Registry) -> None:
        report = self._report(study, registry)
        assert isinstance(report, Report) and report.title and report.parts
        json.dumps(report.to_json(), allow_nan=False)

    def test_its_page_stands_alone(self, study: Study, registry: Registry) -> None:
        page = self._report(study, registry).to_html()
        assert "<script" not in page and "src=" not in page and 'rel="stylesheet"' not in page

    def test_it_is_deterministic(self, study: Study, registry: Registry) -> None:
        assert self._report(study, registry).to_json() == self._report(study, registry).to_json()

    def test_it_changes_nothing_in_the_crosscoder(self, study: Study, registry: Registry) -> None:
        before = {key: value.clone() for key, value in study.crosscoder.state_dict().items()}
        self._report(study, registry)
        for key, value in study.crosscoder.state_dict().items():
            assert torch.equal(value, before[key]), key
