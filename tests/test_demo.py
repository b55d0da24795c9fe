"""The demo finds what was planted, and finds it again with the same seed."""

import json

import pytest

from crosscoders.demo import DemoConfig, demo


def shortened(folder, **changes):
    said = []
    options = {"num_tokens": 40_000, "study_tokens": 16_384, "num_latents": 512, **changes}
    demo(DemoConfig(output=folder, **options), say=said.append)
    return said, json.loads((folder / "report.json").read_text())


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers(tmp_path):
    first, second = (
        shortened(tmp_path / name, num_tokens=8_000, study_tokens=4_096, num_prompts=4)[1] for name in ("one", "two")
    )
    assert first == second


@pytest.mark.slow
def test_the_rare_phrase_comes_out_tenfold_where_the_text_is_coherent(tmp_path):
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
