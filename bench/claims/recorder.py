"""A pytest plugin that writes down how tests marked `claim` end; `exact` loads it by `-p recorder`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

CLAIMS: dict[str, tuple[str, str]] = {}
OUTCOMES: list[tuple[str, str, bool]] = []


def pytest_collection_modifyitems(items: list[Any]) -> None:
    for item in items:
        for mark in item.iter_markers("claim"):
            CLAIMS[item.nodeid] = mark.args


def pytest_runtest_logreport(report: Any) -> None:
    if report.when == "call" and report.nodeid in CLAIMS:
        OUTCOMES.append((*CLAIMS[report.nodeid], report.passed))


def pytest_sessionfinish() -> None:
    Path(os.environ["CLAIMS_RECORD"]).write_text(json.dumps(OUTCOMES))
