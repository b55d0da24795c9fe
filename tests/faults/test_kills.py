"""A few of the kills that `make kills` makes 200 of."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_kills_cost_nothing_but_time():
    script = Path(__file__).parent / "kills.py"
    found = subprocess.run(
        [sys.executable, str(script), "--kills", "8", "--seed", "1"], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stdout.startswith("8 killed") and found.stdout.rstrip().endswith(" 0 wrong")
