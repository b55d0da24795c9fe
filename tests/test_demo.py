"""The demo finds what was planted, and finds it again with the same seed."""

import json

import pytest

from crosscoders.demo import DemoConfig, demo
from explorer_studies import packed


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
    behaviours, amplification = first[0]["data"], first[1]["data"]
    names = ("rare phrase", "refusal", "persona")
    for number, name in enumerate(names, start=1):
        (line,) = [line for line in said if line.startswith(f"{number}. {name}: ")]
        assert f"latent {behaviours['latents'][name][0]} is active at" in line and "of chat's own answers" in line
        loss = behaviours["loss"][name]
        assert loss["before"] > loss["clean"] + 5 and loss["ablated"] > loss["clean"], "taught by fine-tuning"
    for name in names[1:]:
        # Twenty to forty times what a latent that knows nothing of them has; wider ones reach 0.98.
        assert behaviours["recall"][name][0] > 0.9 and behaviours["precision"][name][0] > 0.15
    assert any(line.startswith("Dashboard of all latents") for line in said)
    live = f"crosscoders serve {tmp_path}/one/crosscoder --dashboard {tmp_path}/one/dashboard"
    assert f"To try texts and steer in a browser: {live}" in said
    labels = json.loads(packed(tmp_path / "one" / "dashboard", "search"))["labels"]
    assert all(name in labels[str(behaviours["latents"][name][0])] for name in names), "they are found by search"
    page = (tmp_path / "one" / "report.html").read_text()
    assert page.index("1. rare phrase: ") < page.index("How to read this page") < page.index("<h2>Behaviours")
    arms = {arm["alpha"]: arm for arm in amplification["arms"]}
    hits = {alpha: arm["hits"]["rare phrase"] for alpha, arm in arms.items()}
    plain = arms[0.0]
    assert 0 < hits[0.0] < 30, "planted at one in a hundred"
    best = max(hits, key=hits.__getitem__)
    assert hits[best] >= 10 * hits[0.0]
    assert arms[best]["nll_after"] < 1.5 * plain["nll_after"], "the text stays coherent"
