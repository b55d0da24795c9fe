"""Latent amplification: conformance, planted truth, and worlds where it must say no."""

import pytest
import torch

from crosscoders import (
    AnalysisError,
    Crosscoder,
    LatentError,
    LatentGroup,
    Site,
    Study,
    TokenIds,
    TopKGate,
    Wiring,
    analyse,
)
from crosscoders.activations import ActivationConfig, MaskConfig
from crosscoders.testing import AnalysisSuite, markov_pair
from crosscoders_plugins.analyses.attribution import Reading, answer_with

START = 5


class TestLatentAmplification(AnalysisSuite):
    name = "latent_amplification"
    options = {
        "prompts": ["12", "7 9"],
        "samples_per_prompt": 3,
        "patterns": {"a number": r"\d"},
        "alphas": [1.0],
        "candidates": 4,
        "sampling": {"max_new_tokens": 3},
    }


class Words:
    def documents(self, *, skip=0):
        yield from [TokenIds((5, 2, 3, 4))] * 8


def study_of(before, after):
    """The true dictionary of two Markov models: one latent for each state, whose rows are the logits after it."""
    sites = (Site("base/logits", 6), Site("chat/logits", 6))
    names = ("base/logits", "chat/logits")
    crosscoder = Crosscoder(Wiring(sites=sites, groups=(LatentGroup("all", 6, reads=names, writes=names),)))
    crosscoder.gate = TopKGate(1)
    with torch.no_grad():
        inverse = torch.linalg.inv(after.logits_VV.double()).float()
        crosscoder.W_enc[0].copy_(torch.cat([torch.zeros(6, 6), inverse.T], dim=1))
        crosscoder.W_dec[0].copy_(torch.cat([before.logits_VV, after.logits_VV], dim=1))
    masks = MaskConfig(drop_bos=False, max_norm_multiple=0.0)
    config = ActivationConfig(context_length=4, held_out_share=0.0, masks=masks)
    return Study(crosscoder, {"base": before, "chat": after}, Words(), activations=config, num_tokens=32)


def report_of(study, **options):
    table = {
        "name": "latent_amplification", "patterns": {"rare": r"\brare\b"}, "prompts": ["<start>"],
        "samples_per_prompt": 500, "batch_rows": 500, "alphas": [0.0, 1.0], "named": 1,
        "sampling": {"max_new_tokens": 2}, **options,
    }  # fmt: skip
    (report,) = analyse(study.crosscoder, [table], study=study)
    return report


def test_the_latent_that_carries_a_planted_word_is_named_needed_and_enough():
    before, after = markov_pair(rate=0.01, base_rate=1e-5)
    study = study_of(before, after)
    report = report_of(study)
    found = report.data["behaviours"]["rare"]
    assert found["latents"][0] == START
    # All of the word's log odds at the start go with it: amplified less before, by hand.
    p = [
        (2 * after.logits_VV - before.logits_VV)[START].softmax(0)[1],
        before.logits_VV[START].softmax(0)[1],
    ]
    odds = [each / (1 - each) for each in p]
    assert found["contribution"][0] == pytest.approx(float((odds[0] / odds[1]).log()), rel=1e-3)
    assert all(abs(other) < 1e-4 for other in found["contribution"][1:])
    assert found["plain"]["hits"] < 20 < 200 < found["amplified_logits"]["hits"]
    assert found["without"]["hits"] == found["without_all"]["hits"] == 0
    assert found["amplified_latents"]["0"]["hits"] == found["plain"]["hits"]
    assert found["amplified_latents"]["1"]["hits"] == found["amplified_logits"]["hits"]
    assert "latents 5 contribute most" in report.summary


def test_the_chosen_ones_are_held_against_others_at_random():
    before, after = markov_pair(rate=0.01, base_rate=1e-5)
    found = report_of(study_of(before, after)).data["behaviours"]["rare"]
    assert found["latents"] == [START] and "without_random" not in found
    # In a longer question other latents are active too: one of them out takes nothing of the word away.
    numbers = report_of(study_of(before, after), prompts=["a b c <start>"]).data["behaviours"]["rare"]
    assert numbers["latents"][0] == START and numbers["random"][0] in {2, 3, 4}
    assert numbers["without_random"]["hits"] == numbers["amplified_logits"]["hits"] > 200 > numbers["without"]["hits"]


class Overlapping:
    """Removing latent 1 costs 1.0 and latent 2 the same 1.0 again, not both; 3 costs 0.6, and 4 costs 0.1 more each
    time."""

    jointly = Reading.jointly

    def __init__(self):
        self.calls = 0

    def log_odds(self, without=()):
        self.calls += 1
        out = set(without)
        return -(1.0 * bool(out & {1, 2}) + 0.6 * (3 in out) + 0.1 * (4 in out))


def test_latents_that_take_away_the_same_are_not_both_chosen():
    reading = Overlapping()
    alone = {1: 1.0, 2: 1.0, 3: 0.6, 4: 0.1}
    assert reading.jointly(alone, 2, 4) == pytest.approx({1: 1.0, 3: 0.6})
    assert reading.jointly(alone, 4, 4) == pytest.approx({1: 1.0, 3: 0.6, 4: 0.1, 2: 0.0})
    # With few tried a promise that has become stale is measured again before anything else is taken.
    reading.calls = 0
    assert list(reading.jointly(alone, 3, 2)) == [1, 3, 4]
    assert reading.calls == 1 + 2 * 2
    assert reading.jointly({}, 3, 2) == {}


def test_a_model_against_its_copy_has_nothing_to_attribute():
    _, after = markov_pair(rate=0.05)
    found = report_of(study_of(after, after), alphas=[4.0])
    numbers = found.data["behaviours"]["rare"]
    assert all(abs(loss) < 1e-5 for loss in numbers["contribution"])
    assert numbers["without"]["hits"] == numbers["plain"]["hits"] == numbers["amplified_latents"]["4"]["hits"]
    assert "it does not surely rise" in found.summary


def test_a_behaviour_that_never_comes_up_is_said():
    before, after = markov_pair(rate=0.01)
    report = report_of(study_of(before, after), patterns={"absent": "xyz"}, samples_per_prompt=5)
    assert report.data["behaviours"]["absent"]["latents"] == [] and "did not come up" in report.summary


def test_latents_may_be_given_and_what_is_missing_is_said():
    before, after = markov_pair(rate=0.01, base_rate=1e-5)
    study = study_of(before, after)
    given = report_of(study, latents={"rare": [2]}).data["behaviours"]["rare"]
    assert given["latents"] == [2] and given["without"]["hits"] == given["amplified_logits"]["hits"]
    with pytest.raises(AnalysisError, match="give patterns"):
        report_of(study, patterns={})


def test_study_amplify_runs_the_model_with_its_latents_amplified():
    before, after = markov_pair(rate=0.01, base_rate=1e-5)
    study = study_of(before, after)
    logits = study.amplify([START], alpha=1.0).logits([5, 2, 3])
    expected = after.logits_VV[[5, 2, 3]].clone()
    expected[0] += (after.logits_VV - before.logits_VV)[START]
    torch.testing.assert_close(logits[0], expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(
        study.amplify(alpha=-1.0).logits([5, 2])[0], before.logits_VV[[5, 2]], rtol=1e-3, atol=1e-3
    )
    with pytest.raises(LatentError, match="no latent 6"):
        study.amplify([6], alpha=1.0)


def test_where_a_behaviour_is_is_found_in_tokens():
    import re

    _, after = markov_pair(rate=0.1)
    found = answer_with(after, re.compile("rare a"), [5], [3, 1, 2, 4])
    assert (found.start, found.stop) == (2, 4)
    assert answer_with(after, re.compile("nothing"), [5], [3]) is None
