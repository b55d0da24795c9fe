"""Automatic interpretation: conformance, a scripted model that knows the truth, and one that knows nothing."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file

from crosscoders import (
    AnalysisError,
    ArchitectureChoice,
    CheckpointInfo,
    Crosscoder,
    LatentError,
    ScoreThresholdGate,
    analyse,
)
from crosscoders.testing import AnalysisSuite
from crosscoders_plugins.analyses.autointerp import likelihoods, score_of
from crosscoders_plugins.analyses.windows import Window, sampled
from planted_pair import pair


def knows_nothing(prompt):
    return "something" if "responds to:" in prompt[-20:] else "\n".join(f"{n}: 60" for n in range(1, 6))


class TestAutointerp(AnalysisSuite):
    name = "autointerp"
    options = {"model": f"{__name__}:knows_nothing", "count": 2, "min_firings": 8, "train": 8, "test": 8}


def sparse():
    """Concepts that are rare enough for windows without them."""
    made = pair(rate=0.03, count=2000)
    # Above what rounding leaves of other concepts.
    made[0].crosscoder.gate = ScoreThresholdGate(0.5)
    return made


def report_of(study, **options):
    (report,) = analyse(study.crosscoder, [{"name": "autointerp", **options}], study=study)
    return report


def scripted(study, latent):
    """A model that knows on which tokens the latent is active, since every token is named by its number."""
    active = set()
    for batch in study.batches():
        mine = batch.latents.latent_N == latent
        rows = batch.place_B2[batch.latents.token_N[mine]]
        active |= {f"<{int(batch.tokens.ids[r, t])}>" for r, t in rows}
    prompts = []

    def model(prompt):
        prompts.append(prompt)
        if prompt.startswith("Below"):
            assert set(re.findall("«(<[0-9]+>)»", prompt)) <= active
            return " the planted tokens\n"
        assert "the planted tokens" in prompt
        lines = []
        for number, text in re.findall(r"^(\d+): (.*)$", prompt, flags=re.MULTILINE):
            marked = set(re.findall("«(<[0-9]+>)»", text))
            there = (marked or set(re.findall("<[0-9]+>", text))) & active
            lines.append(f"{number}: {95 if there else 5}")
        return "\n".join(lines)

    return model, prompts


def test_a_model_that_knows_scores_1_and_one_that_does_not_scores_chance(tmp_path):
    study, _, _ = sparse()
    model, prompts = scripted(study, 4)
    path = tmp_path / "explanations.json"
    found = report_of(study, model=model, latents=[4], train=8, test=12, save=str(path)).data["latents"]["4"]
    assert found["explanation"] == "the planted tokens"
    for kind in ("detection", "fuzzing"):
        assert found[kind]["balanced_accuracy"] == found[kind]["auc"] == 1.0, kind
        assert found[kind]["answered"] == found[kind]["asked"]
    assert json.loads(path.read_text())["latents"]["4"] == found
    assert len(prompts) == 1 + -(-found["detection"]["asked"] // 5) + -(-found["fuzzing"]["asked"] // 5)
    blind = report_of(study, model=knows_nothing, latents=[4], train=8, test=12).data["latents"]["4"]
    assert blind["detection"]["balanced_accuracy"] == blind["detection"]["auc"] == 0.5


def test_windows_are_what_they_say():
    study, f_NC, _ = sparse()
    found = sampled(study, [0, 4])
    for latent, windows in found.items():
        assert windows.positive and windows.negative and windows.hard
        for window in windows.positive:
            ids = [int(token[1:-1]) for token in window.tokens]
            assert window.values == pytest.approx([float(f_NC[i, latent]) for i in ids], abs=1e-4)
        assert all(window.peak > 0 for window in windows.positive)
        assert all(window.peak == 0 for window in [*windows.negative, *windows.hard])


def test_answers_are_read_and_scored_as_far_as_they_go():
    assert likelihoods("1: 90\n- 2) 10\nrubbish 3\n4: 400\n9: 1", 4) == [0.9, 0.1, None, None]
    score = score_of([(0.9, True), (0.4, True), (0.4, False), (0.1, False)], 5)
    assert (score.balanced_accuracy, score.auc, score.answered, score.asked) == (0.75, 0.875, 4, 5)
    assert score_of([(0.9, True)], 2) is None
    assert Window(("a", "b"), (0.0, 1.0)).marked() == "a«b»"


def test_what_is_missing_is_said():
    study, _, _ = pair()
    with pytest.raises(AnalysisError, match="give model"):
        report_of(study)
    with pytest.raises(AnalysisError, match="no latent fires"):
        report_of(study, model=knows_nothing, min_firings=10_000)


def test_explanations_are_shown_wherever_latents_are(tmp_path):
    study, _, _ = sparse()
    path = tmp_path / "explanations.json"
    path.write_text(json.dumps({"latents": {"4": {"explanation": "what was planted"}}}))
    study.read_explanations(path)
    assert study.examples([4, 0]).entries[0].note.startswith("what was planted; active on ")
    diff, norms = analyse(study.crosscoder, [{"name": "diff", "kl_tokens": 0}, "decoder_norms"], study=study)
    assert "Explained as: what was planted." in diff.data["line"][4] and "Explained" not in diff.data["line"][0]
    assert "what was planted; " in norms.to_html()
    for content in ("[]", '{"latents": {"9": {"explanation": "x"}}}', '{"latents": {"1": {}}}'):
        path.write_text(content)
        with pytest.raises(AnalysisError):
            study.read_explanations(path)


def test_explanations_stay_beside_the_crosscoder(tmp_path, caplog):
    study, _, _ = sparse()
    choice = ArchitectureChoice.of("acausal", num_latents=study.crosscoder.num_latents)
    study.crosscoder.info = CheckpointInfo.from_architecture(choice)
    first = study.crosscoder.save_pretrained(tmp_path / "first")
    loaded = study.with_crosscoder(Crosscoder.from_pretrained(first))
    model, _ = scripted(loaded, 4)
    report_of(loaded, model=model, latents=[4], train=8, test=12)
    beside = json.loads((first / "explanations.json").read_text())["latents"]
    assert beside["4"]["explanation"] == "the planted tokens" and beside["4"]["detection"]["auc"] == 1.0
    assert loaded.explain({2: "what a person said \ud800"}) == first / "explanations.json"
    again = Crosscoder.from_pretrained(first)
    assert study.with_crosscoder(again).explanations == {2: "what a person said ?", 4: "the planted tokens"}
    # They go with it wherever it is saved.
    other = Crosscoder.from_pretrained(again.save_pretrained(tmp_path / "other"))
    assert other.info.explanations == again.info.explanations
    (first / "explanations.json").write_text('{"latents": {"999": {"explanation": "x"}}}')
    assert Crosscoder.from_pretrained(first).info.explanations == {} and "entry '999'" in caplog.text
    with pytest.raises(LatentError, match="no latent 9"):
        loaded.explain({9: "x"})
    with pytest.raises(AnalysisError, match="should be text"):
        loaded.explain({1: {"explanation": 3}})


def test_latents_are_written_in_the_layout_of_delphis_cache(tmp_path):
    study, f_NC, _ = sparse()
    folder = study.write_latents(tmp_path / "cache", splits=2)
    assert sorted(p.name for p in (folder / "crosscoder").iterdir()) == [
        "0_2.safetensors", "3_5.safetensors", "config.json"
    ]  # fmt: skip
    found = torch.zeros_like(f_NC)
    for path in (folder / "crosscoder").glob("*.safetensors"):
        # As delphi's loader reads it: numbers of latents count from the one that the name begins with.
        data, first = load_file(path), int(path.name.split("_")[0])
        assert data["locations"].dtype == torch.uint16 and data["activations"].dtype == torch.float16
        row, position, latent = data["locations"].long().unbind(dim=1)
        found[data["tokens"][row, position], latent + first] = data["activations"].float()
    torch.testing.assert_close(found, f_NC * (f_NC > 0.5), rtol=1e-3, atol=1e-3)
    config = json.loads((folder / "crosscoder" / "config.json").read_text())
    assert config["ctx_len"] == 20 and config["width"] == 6
    with pytest.raises(AnalysisError, match="exists already"):
        study.write_latents(folder)
    with pytest.raises(AnalysisError, match="1 to 6"):
        study.write_latents(tmp_path / "other", splits=7)
