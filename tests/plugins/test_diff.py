"""The diff report: conformance, planted truth, twins, and worlds where it must say no."""

import pytest
import torch

from crosscoders import AnalysisError, Crosscoder, LatentGroup, ReluGate, Site, Wiring, analyse
from crosscoders.testing import AnalysisSuite
from crosscoders_plugins.analyses.evidence import Null, held_against
from crosscoders_plugins.analyses.twins import twins
from planted_pair import Readout, pair, study_of


class TestDiff(AnalysisSuite):
    name = "diff"
    options = {"kl_tokens": 256, "top": 3}


def report_of(study, **options):
    (report,) = analyse(study.crosscoder, [{"name": "diff", **options}], study=study)
    return report


def test_what_was_added_is_specific_and_carries_the_whole_difference():
    study, _, _ = pair()
    report = report_of(study)
    assert report.data["verdict"] == ["shared"] * 4 + ["specific to b/x"] * 2
    assert report.data["causal"]["specific to b/x"] == pytest.approx(1.0, abs=1e-3)
    assert report.data["causal"]["shared"] == pytest.approx(0.0, abs=1e-3)
    assert 0 < report.data["causal"]["latent 4"] < 1
    assert "2 latents are specific" in report.summary and "no null pair was given" in report.summary
    line = report.data["line"][4]
    assert line.startswith("Specific to b/x: ") and "Fires on" in line and "of the KL" in line
    entries = next(part for part in report.parts if part.title == "Latents")
    assert [entry.heading for entry in entries.entries][:2] and entries.groups == {"specific to b/x": 2, "shared": 3}
    page = report.to_html()
    assert "specific to b/x (2)" in page and "pick-2" in page
    frame = entries.to_pandas()
    assert list(frame["group"]) == ["specific to b/x"] * 2 + ["shared"] * 3 and "ν^ε, a/x" in frame


def test_a_copy_has_nothing_specific():
    study, _, _ = pair(copy=True)
    report = report_of(study)
    assert set(report.data["verdict"]) == {"shared"} and report.data["causal"] == {}
    assert "No latent is specific to one model" in report.summary


def test_the_null_pair_is_run_and_holds_verdicts_back():
    study, _, _ = pair()
    null, _, _ = pair(copy=True)
    report = report_of(study, null=null.crosscoder)
    counts = dict.fromkeys(("exclusive", "confirmed", "specific"), 0)
    assert report.data["null"] == {"latents": 6, **counts, "strongest": None}
    assert report.data["verdict"].count("specific to b/x") == 2
    scaling = {
        "verdict": ["specific to b/x", "specific to b/x", "shared"],
        "reason": ["", "", ""],
        "home": ["b/x", "b/x", "a/x"],
        "relative_strength_interval": {"a/x": [[0.0, 0.05], [0.0, 0.15], [1, 1]], "b/x": [[1, 1], [1, 1], [0.9, 1.1]]},
    }
    assert held_against(Null(10, 1, 1, 1, 0.1), scaling)[0] == ["specific to b/x", "undecided", "shared"]
    assert held_against(Null(10, 0, 0, 0, None), scaling)[0] == scaling["verdict"]


def test_other_crosscoders_say_whether_they_have_it():
    study, _, _ = pair()
    report = report_of(study, others=[study.crosscoder])
    assert report.data["nearest_elsewhere"] == pytest.approx([1.0] * 6)
    assert "1 of 1 other crosscoders have it too" in report.data["line"][4]


def test_twins_are_alike_latents_of_different_models_and_how_they_fire():
    generator = torch.Generator().manual_seed(0)
    f_N = torch.where(torch.rand(400, generator=generator) < 0.3, 1.0, 0.0)
    apart_N = torch.where((torch.rand(400, generator=generator) < 0.3) & (f_N == 0), 1.0, 0.0)
    rows = torch.eye(4)
    x_a = f_N[:, None] * rows[0] + f_N[:, None] * rows[2]
    x_b = f_N[:, None] * rows[0] + apart_N[:, None] * rows[2]
    names = ("a/x", "b/x")
    sites = (Site("a/x", 4), Site("b/x", 4))
    crosscoder = Crosscoder(Wiring(sites=sites, groups=(LatentGroup("all", 5, reads=names, writes=names),)))
    crosscoder.gate = ReluGate()
    none = torch.zeros(4)
    with torch.no_grad():
        crosscoder.W_dec[0].copy_(
            torch.stack([torch.cat(pair) for pair in [(rows[0], none), (none, rows[0]), (rows[2], none),
                                                      (none, rows[2]), (none, rows[1])]])
        )  # fmt: skip
        crosscoder.W_enc[0].copy_(crosscoder.W_dec[0])
    study = study_of(crosscoder, {"a": Readout(x_a, torch.zeros(4, 4)), "b": Readout(x_b, torch.zeros(4, 4))})
    found = twins(study, ["a/x", "b/x", "a/x", "b/x", "b/x"])
    assert {j: twin.latent for j, twin in found.items()} == {0: 1, 1: 0, 2: 3, 3: 2}
    assert found[0].cosine == pytest.approx(1.0) and found[0].divergence == 0.0
    assert found[2].divergence == 1.0
    assert twins(study, ["a/x", "", "a/x", "", ""]) == {}


def test_one_model_has_no_diff():
    sites, names = (Site("a/x", 8), Site("a/y", 8)), ("a/x", "a/y")
    crosscoder = Crosscoder(Wiring(sites=sites, groups=(LatentGroup("all", 4, reads=names, writes=names),)))
    study, _, _ = pair()
    study.crosscoder = crosscoder
    with pytest.raises(AnalysisError, match="compares two models"):
        report_of(study)
