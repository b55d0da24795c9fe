"""The table of families: the page says what was recorded, and the script judges."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("families", ROOT / "bench" / "families.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_says_what_was_recorded_and_nothing_is_wrong(script):
    recorded = json.loads(script.RESULTS.read_text())
    assert script.page_table(recorded) in script.PAGE.read_text()
    wrong = {name: verdict for name, verdict in recorded["families"].items() if "wrong" in str(verdict)}
    assert not wrong and len(recorded["families"]) > 200


@pytest.mark.parametrize("family", ["gpt2", "falcon"])
def test_a_family_is_judged(script, family):
    verdict = script.of_family(family, causal=True)
    assert [verdict[name] for name in ("residual", "attention", "mlp", "mlp_input", "logits")] == ["right"] * 5


def test_a_promise_that_is_not_kept_is_seen(script, monkeypatch):
    adapter = script.TransformersAdapter.wrap(script.build("gpt2", causal=True), script.Tokenizer(), name="gpt2")
    plain = adapter.activations
    monkeypatch.setattr(
        adapter,
        "activations",
        lambda tokens, points: (
            {point: 1.1 * value for point, value in plain(tokens, points).items() if "mlp" in point}
            or plain(tokens, points)
        ),
    )
    verdicts = script.judged(adapter)
    assert verdicts["mlp"].startswith("wrong: in layer 0 input + attention + MLP") and verdicts["residual"] == "right"
