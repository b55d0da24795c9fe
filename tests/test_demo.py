"""The demo finds what was planted, and finds it again with the same seed."""

import json

import pytest

from crosscoders.demo import DemoConfig, demo


def shortened(folder):
    said = []
    demo(DemoConfig(num_tokens=60_000, study_tokens=16_384, num_latents=1024, output=folder), say=said.append)
    return said, json.loads((folder / "report.json").read_text())


@pytest.mark.slow
def test_same_seed_same_numbers_and_the_rare_phrase_tenfold(tmp_path):
    said, first = shortened(tmp_path / "one")
    assert any(line.startswith("Held out, inference gate: explained variance base/layers.") for line in said)
    assert any("L0 " in line for line in said)
    arms = {arm["alpha"]: arm for arm in first[2]["data"]["arms"]}
    hits = {alpha: arm["hits"]["rare phrase"] for alpha, arm in arms.items()}
    plain = arms[0.0]
    assert 0 < hits[0.0] < 30, "planted at one in a hundred"
    best = max(hits, key=hits.__getitem__)
    assert hits[best] >= 10 * hits[0.0]
    assert arms[best]["nll_after"] < 1.5 * plain["nll_after"], "the text stays coherent"
    assert first[2]["data"]["control"]["hits"]["rare phrase"] == hits[0.0]
    assert shortened(tmp_path / "two")[1] == first
