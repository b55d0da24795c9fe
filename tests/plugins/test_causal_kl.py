"""Causal KL: conformance, by hand, and planted truth."""

import math

import pytest
import torch

from crosscoders import (
    AnalysisError,
    ConfigError,
    Crosscoder,
    LatentGroup,
    ReluGate,
    Site,
    Study,
    TokenIds,
    Wiring,
    analyse,
)
from crosscoders.activations import ActivationConfig, MaskConfig
from crosscoders.analysis.patching import answer_opening, places_in_answers
from crosscoders.testing import AnalysisSuite
from crosscoders.testing.fakes import MarkovModel
from crosscoders_plugins.analyses.causal_kl import ALL, EXACT, KINDS, NONE, CausalKLConfig

EVERY = KINDS[0]
SHARED, ONLY_B = (0, 1, 2, 3), (4, 5)


class TestCausalKL(AnalysisSuite):
    name = "causal_kl"
    options = {"random_sets": 1, "num_tokens": 512, "sets": {"a few": [0, 3]}}


class Readout:
    """A model whose activations are looked up by token id and whose logits are linear in them."""

    def __init__(self, x_ND, readout_DV):
        self.x_ND, self.readout_DV = x_ND, readout_DV

    def points(self):
        return ("x",)

    def activations(self, tokens, points):
        return {"x": self.x_ND[tokens.ids]}

    def logits(self, tokens, edits=()):
        x_BTD = self.x_ND[tokens.ids]
        for edit in edits:
            x_BTD = edit.apply(x_BTD)
        return x_BTD @ self.readout_DV

    def has_chat_template(self):
        return False

    def __getattr__(self, name):
        return getattr(MarkovModel(torch.zeros(2, 2), ("a", "b")), name)


class Rows:
    def documents(self, *, skip=0):
        for start in range(skip * 20, 400, 20):
            yield TokenIds(tuple(range(start, start + 20)))


def pair(*, copy=False):
    """Six concepts on orthogonal directions, the last two in b only unless it is a copy, and their true dictionary."""
    generator = torch.Generator().manual_seed(0)
    on = torch.rand(400, 6, generator=generator) < 0.2
    f_NC = torch.where(on, 1.0 + torch.rand(400, 6, generator=generator), torch.zeros(()))
    rows_CD = torch.linalg.qr(torch.randn(8, 8, generator=generator)).Q[:6]
    there_C = torch.tensor([1.0, 1, 1, 1, float(copy), float(copy)])
    readout_DV = torch.randn(8, 400, generator=generator)
    models = {
        "a": Readout((f_NC * there_C) @ rows_CD, readout_DV),
        "b": Readout(f_NC @ rows_CD, readout_DV),
    }
    sites = (Site("a/x", 8), Site("b/x", 8))
    names = ("a/x", "b/x")
    crosscoder = Crosscoder(Wiring(sites=sites, groups=(LatentGroup("all", 6, reads=names, writes=names),)))
    crosscoder.gate = ReluGate()
    with torch.no_grad():
        crosscoder.W_enc[0].copy_(torch.cat([torch.zeros(6, 8), rows_CD], dim=1))
        crosscoder.W_dec[0].copy_(torch.cat([there_C[:, None] * rows_CD, rows_CD], dim=1))
    config = ActivationConfig(
        context_length=20, held_out_share=0.0, rows_per_forward=8, masks=MaskConfig(max_norm_multiple=0.0)
    )
    return Study(crosscoder, models, Rows(), activations=config, num_tokens=400), f_NC, rows_CD


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
