"""Predictions that need no long training: tests marked `claim("E1", "statement")`, run and recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from common import Verdict

ROOT = Path(__file__).parent.parent.parent


class _Recorder:
    """A pytest plugin that notes how marked tests end."""

    def __init__(self) -> None:
        self.outcomes: dict[tuple[str, str], list[bool]] = {}
        self._claims: dict[str, tuple[str, str]] = {}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        for item in items:
            for mark in item.iter_markers("claim"):
                self._claims[item.nodeid] = mark.args

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" and report.nodeid in self._claims:
            self.outcomes.setdefault(self._claims[report.nodeid], []).append(report.passed)


def verdicts() -> list[Verdict]:
    """Run all marked tests; the value is the number of test cases."""
    recorder = _Recorder()
    pytest.main(["-q", "-m", "claim", "-p", "no:cacheprovider", "--rootdir", str(ROOT), str(ROOT / "tests")],
                plugins=[recorder])  # fmt: skip
    return sorted(
        (Verdict(key, statement, "exact", float(len(passed)), all(passed))
         for (key, statement), passed in recorder.outcomes.items()),
        key=lambda v: (v.id[0], int(v.id[1:])),
    )  # fmt: skip
