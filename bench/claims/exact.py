"""Predictions that need no long training: tests marked `claim("E1", "statement")`, run and recorded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from common import Verdict

HERE = Path(__file__).parent


def verdicts() -> list[Verdict]:
    """Run all marked tests in a process of their own; the value is the number of test cases."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "record.json"
        environment = {**os.environ, "CLAIMS_RECORD": str(record), "PYTHONPATH": str(HERE)}
        command = [sys.executable, "-m", "pytest", "-q", "-m", "claim", "-p", "recorder", "-p", "no:cacheprovider"]
        subprocess.run(command, cwd=HERE.parent.parent, env=environment, check=False)
        outcomes = json.loads(record.read_text())
    passed: dict[tuple[str, str], list[bool]] = {}
    for key, statement, held in outcomes:
        passed.setdefault((key, statement), []).append(held)
    rows = [Verdict(key, statement, "exact", float(len(held)), all(held)) for (key, statement), held in passed.items()]
    return sorted(rows, key=lambda row: (row.id[0], int(row.id[1:])))
