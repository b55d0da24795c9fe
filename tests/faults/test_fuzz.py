"""A few seconds of the fuzz; `make fuzz` runs the long one."""

import pytest

from faults.hub import HubAnswers
from faults.judge import FINE
from faults.targets import KINDS

MUTANTS = 60


@pytest.mark.parametrize("kind", list(KINDS))
def test_damaged_files_are_refused_or_mean_the_same(kind, tmp_path):
    target = KINDS[kind](tmp_path / "scratch")
    found = {seed: target.run(seed) for seed in range(MUTANTS)}
    assert not {seed: outcome for seed, outcome in found.items() if outcome not in FINE}
    assert "refused" in found.values()


def test_damaged_answers_of_a_hub_are_refused_and_not_kept(hub, tmp_path):
    target = HubAnswers(tmp_path, hub)
    found = {seed: target.run(seed) for seed in range(30)}
    assert not {seed: outcome for seed, outcome in found.items() if outcome not in FINE}
    assert {"refused", "same"} <= set(found.values())
