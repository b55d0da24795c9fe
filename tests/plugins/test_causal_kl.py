"""Causal KL: conformance, by hand, and planted truth."""

import math

import pytest
import torch

from crosscoders import (
    AnalysisError,
    ConfigError,
    analyse,
)
from crosscoders.analysis.patching import answer_opening, places_in_answers
from crosscoders.testing import AnalysisSuite
from crosscoders_plugins.analyses.causal_kl import ALL, EXACT, KINDS, NONE, CausalKLConfig
from planted_pair import pair

EVERY = KINDS[0]
SHARED, ONLY_B = (0, 1, 2, 3), (4, 5)


class TestCausalKL(AnalysisSuite):
    name = "causal_kl"
    options = {"random_sets": 1, "num_tokens": 512, "sets": {"a few": [0, 3]}}


def report_of(study, **options):
    (report,) = analyse(
        study.crosscoder, [{"name": "causal_kl", "random_sets": 0, "blocks": 8, **options}], study=study
    )
    return report


def test_exclusive_latents_carry_the_difference_and_shared_ones_nothing():
    study, _, _ = pair()
    report = report_of(study, sets={"exclusive": ONLY_B, "shared": SHARED})
    recovered = report.data["recovered"][EVERY]
    for name in ("exclusive", ALL, EXACT):
        assert recovered[name] == pytest.approx(1.0, abs=1e-4)
    assert recovered["shared"] == pytest.approx(0.0, abs=1e-4) and recovered[NONE] == 0.0
    assert recovered["most by delta_norm"] > 0.9 and recovered["least by delta_norm"] == pytest.approx(0.0, abs=1e-4)
    assert report.data["kl"][EVERY][EXACT] < 1e-5 < report.data["kl"][EVERY][NONE]


def test_a_copy_has_nothing_to_recover():
    study, _, _ = pair(copy=True)
    report = report_of(study)
    assert report.data["kl"][EVERY][NONE] < 1e-6 and math.isnan(report.data["recovered"][EVERY][ALL])
    assert "nothing to recover" in report.summary
    assert report.to_json()["data"]["recovered"][EVERY][ALL] is None


def test_numbers_are_those_by_hand():
    study, f_NC, rows_CD = pair()
    models = study.adapters
    readout_DV = models["b"].readout_DV
    expected = []
    for start in range(0, 400, 20):
        ids = torch.arange(start, start + 19)
        clean = (models["b"].x_ND[ids] @ readout_DV).double().log_softmax(1)
        moved = models["a"].x_ND[ids] + f_NC[ids, 4:5] * rows_CD[4]
        changed = (moved @ readout_DV).double().log_softmax(1)
        expected.append((clean.exp() * (clean - changed)).sum(1))
    report = report_of(study, sets={"one": [4]})
    assert report.data["kl"][EVERY]["one"] == pytest.approx(float(torch.cat(expected).mean()), rel=1e-4)
    assert report.data["kl"][EVERY]["one"] == pytest.approx(study.patch("b", "a", [4]).kl, rel=1e-5)
    low, high = report.data["recovered_interval"][EVERY]["one"]
    assert low < report.data["recovered"][EVERY]["one"] < high


def test_by_energy_ranks_by_what_is_put_into_the_other_model():
    study, f_NC, _ = pair()
    sets = report_of(study, by="energy", share=0.17).data["sets"]
    assert sets["most by energy"] == [max(ONLY_B, key=lambda j: float(f_NC[:, j].square().sum()))]


def test_answers_begin_after_the_templates_opening_and_end_with_a_special_token():
    assert answer_opening([1, 5, 9, 2], [1, 6, 6, 9, 2]) == (9, 2)
    ids = torch.tensor([[1, 5, 9, 2, 7, 7, 3, 5, 9, 2, 8]])
    special = torch.tensor([[1, 0, 1, 1, 0, 0, 1, 0, 1, 1, 0]], dtype=torch.bool)
    assert places_in_answers(ids, special, (9, 2)).tolist() == [[-1, -1, -1, -1, 0, 1, 2, -1, -1, -1, 0]]
    assert (places_in_answers(ids, special, ()) == -1).all()


def test_what_cannot_be_compared_is_said():
    study, _, _ = pair()
    with pytest.raises(AnalysisError, match="has latent 6; there are 6"):
        report_of(study, sets={"mine": [6]})
    with pytest.raises(AnalysisError, match="there is no model 'c'"):
        report_of(study, source="c")
    with pytest.raises(ConfigError, match="an arm of its own"):
        CausalKLConfig(sets={ALL: (1,)})
