"""Behaviours: recall, precision and losses against counting by hand."""

import re

import pytest
import torch

from crosscoders import ConfigError, TokenIds, analyse
from crosscoders_plugins.analyses.behaviours import BehavioursConfig
from crosscoders_plugins.analyses.places import Places
from study_of_texts import shared_study

PATTERNS = {"sum": r"sum \w+", "nowhere": "no such words", "letters": r"oi", "side by side": r"\w+ "}


def by_hand(study, pattern):
    """Of each latent: matches at which it is active, summed activation at matches and in all; and the matches."""
    F = study.crosscoder.num_latents
    matched, at, total, matches = torch.zeros(F), torch.zeros(F), torch.zeros(F), 0
    for batch in study.batches():
        dense_BTF = torch.zeros(*batch.keep_BT.shape, F)
        dense_BTF[batch.keep_BT] = batch.latents.dense()
        total += dense_BTF.sum(dim=(0, 1))
        there_BT = torch.zeros_like(batch.keep_BT)
        for row in range(len(batch.keep_BT)):
            numbers = batch.tokens.document[row] if batch.tokens.document is not None else torch.zeros(24)
            for number in sorted(set(numbers.tolist()) - {-1}):
                own = [t for t in range(24) if numbers[t] == number and batch.tokens.attention[row, t]]
                texts = study.reading.token_texts(batch.tokens.ids[row, own].tolist())
                for match in re.finditer(pattern, "".join(texts)):
                    matches += 1
                    there, length = [], 0
                    for t, text in zip(own, texts):
                        if length < match.end() and length + len(text) > match.start():
                            there.append(t)
                        length += len(text)
                    before = own.index(there[0]) - 1
                    there = ([own[before]] if before >= 0 else []) + there
                    matched += dense_BTF[row, there].gt(0).any(dim=0)
                    there_BT[row, there] = True
        at += dense_BTF[there_BT].sum(dim=0)
    return matched, at, total, matches


@pytest.mark.parametrize("name", PATTERNS)
def test_places_count_as_by_hand(name):
    study = shared_study()
    places = Places(study, {key: re.compile(pattern) for key, pattern in PATTERNS.items()})
    matched, at, total, matches = by_hand(study, PATTERNS[name])
    assert places.count(name) == matches == len(places.spots[name]) and (matches > 10) == (name != "nowhere")
    if matches:
        torch.testing.assert_close(places.recall(name).float(), matched / matches)
        torch.testing.assert_close(places.precision(name).float(), at / total.clamp_min(1e-12))
    for spot in places.spots[name]:
        text = "".join(study.reading.token_texts(spot.document.ids[spot.start : spot.stop]))
        assert re.search(PATTERNS[name], text), "the tokens of a match hold it"


def test_losses_are_those_of_the_words_of_the_matches():
    study = shared_study()
    options = {"patterns": {"sum": PATTERNS["sum"]}, "top": 2, "ablated": 3, "documents": 4, "before": "base"}
    (report,) = analyse(study.crosscoder, [{"name": "behaviours", **options}], study=study)
    loss, latents = report.data["loss"]["sum"], report.data["latents"]["sum"]
    assert len(latents) == 3 and len(report.frame) == 3
    spots = Places(study, {"sum": re.compile(PATTERNS["sum"])}).spots["sum"][:4]
    for key, clean in (("chat", loss["clean"]), ("base", loss["before"])):
        losses = []
        for spot in spots:
            logp_TV = study.steer({}, model=key).logits(TokenIds(spot.document.ids))[0].log_softmax(dim=-1)
            losses += [-logp_TV[t - 1, spot.document.ids[t]] for t in range(spot.start, spot.stop)]
        assert float(torch.stack(losses).mean()) == pytest.approx(clean, rel=1e-4)
    ablated = []
    for spot in spots:
        steered = study.steer(dict.fromkeys(latents, "ablate"), model="chat")
        logp_TV = steered.logits(TokenIds(spot.document.ids))[0].log_softmax(dim=-1)
        ablated += [-logp_TV[t - 1, spot.document.ids[t]] for t in range(spot.start, spot.stop)]
    assert float(torch.stack(ablated).mean()) == pytest.approx(loss["ablated"], rel=1e-3)
    assert "without" in report.parts[1].columns[2] and report.summary.startswith("sum: latent ")


def test_patterns_are_checked():
    with pytest.raises(ConfigError, match="'a' is not a regular expression"):
        BehavioursConfig(patterns={"a": "("})
    with pytest.raises(ValueError, match="patterns"):
        BehavioursConfig(patterns={})
