"""Training runs: reproducible, resumable after any kill, the same on one process and two."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file

from crosscoders import CheckpointError, ConfigError, Crosscoder, RunConfig, TrainingError, train
from crosscoders.testing import synthetic_run
from crosscoders.training.resume import latest_state
from runs import assert_bit_equal, config_of, weights


def test_a_run_learns_and_reports_with_the_inference_gate(planted_run):
    metrics = Crosscoder.from_pretrained(planted_run / "crosscoder").info.metrics
    assert min(metrics["explained_variance"].values()) > 0.6
    assert metrics["l0"] == pytest.approx(2, rel=0.15)
    assert metrics["num_tokens"] == 1024
    history = json.loads((planted_run / "history.json").read_text())
    assert history[0]["loss"] > history[-2]["loss"]


def test_the_same_seed_gives_the_same_bits(planted_run, tmp_path):
    train(config_of(tmp_path), quiet=True)
    assert_bit_equal(weights(planted_run), weights(tmp_path))


def test_another_seed_gives_others(planted_run, tmp_path):
    train(config_of(tmp_path, training={"seed": 1}), quiet=True)
    assert not torch.equal(weights(planted_run)["b_enc_F"], weights(tmp_path)["b_enc_F"])


class Stop(Exception):
    pass


@pytest.mark.parametrize(("stop", "evaluate_every"), [(3, 0), (40, 0), (71, 0), (40, 7)])
def test_resuming_is_bit_equal(planted_run, tmp_path, stop, evaluate_every, monkeypatch):
    """Stopped in the middle, by an exception right after a step; with and without evaluations on the way."""
    from crosscoders.training.trainer import Trainer

    step = Trainer.step

    def stopping(self, parts):
        if self.step_number == stop:
            raise Stop
        return step(self, parts)

    config = config_of(tmp_path, training={"save_every": 3, "evaluate_every": evaluate_every})
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", stopping)
        with pytest.raises(Stop):
            train(config, quiet=True)
    assert latest_state(tmp_path / "checkpoints").name == f"step-{stop - stop % 3:08d}"
    train(config, quiet=True)
    assert_bit_equal(weights(planted_run), weights(tmp_path))


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    train(config_of(tmp_path, training={"save_every": 40}), quiet=True)
    with pytest.raises(CheckpointError, match=r"loss\.k was 2 and is now 3"):
        train(config_of(tmp_path, training={"save_every": 40}, loss={"k": 3}), quiet=True)
    train(config_of(tmp_path, training={"save_every": 20}), quiet=True)


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    train(config_of(tmp_path, training={"save_every": 10, "keep_checkpoints": 2}), quiet=True)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-00000070", "step-00000080"]


def test_gradient_accumulation_gives_the_same_l1_run(tmp_path):
    l1 = {"name": "l1", "weight": 0.5}
    data = [synthetic_run(str(tmp_path / str(n)), training={"accumulation": n, "num_tokens": 2560}) for n in (1, 4)]
    for entry in data:
        entry["loss"] = l1
        train(RunConfig.from_dict(entry), quiet=True)
    first, second = (weights(tmp_path / name) for name in ("1", "4"))
    for key in first:
        torch.testing.assert_close(first[key], second[key], rtol=1e-4, atol=1e-5)


def test_bf16_autocast_keeps_fp32_weights_and_learns(tmp_path):
    crosscoder = train(config_of(tmp_path, training={"mixed_precision": "bf16"}), quiet=True)
    assert all(p.dtype == torch.float32 for p in crosscoder.parameters())
    assert min(crosscoder.info.metrics["explained_variance"].values()) > 0.6


def test_infinite_activations_stop_the_run_and_keep_the_checkpoint(tmp_path, monkeypatch):
    from crosscoders_adapters.synthetic import SyntheticAdapter

    plain, calls = SyntheticAdapter.activations, []

    def breaking(self, tokens, points):
        calls.append(1)
        found = plain(self, tokens, points)
        if self.options.model == "b" and len(calls) > 60:
            found["x"][0, 3] = float("nan")
        return found

    monkeypatch.setattr(SyntheticAdapter, "activations", breaking)
    with pytest.raises(TrainingError, match=r"step \d+: activations at site chat/x are not finite"):
        train(config_of(tmp_path, training={"save_every": 1}), quiet=True)
    assert latest_state(tmp_path / "checkpoints") is not None


def test_an_infinite_loss_stops_the_run_and_leaves_the_weights(tmp_path, monkeypatch):
    from crosscoders_plugins.losses.batchtopk import BatchTopK

    plain = BatchTopK.forward

    def breaking(self, crosscoder, x_BX, step):
        output = plain(self, crosscoder, x_BX, step)
        if step.step == 7:
            output.terms["reconstruction"] = output.terms["reconstruction"] * float("inf")
        return output

    monkeypatch.setattr(BatchTopK, "forward", breaking)
    with pytest.raises(TrainingError, match="loss term reconstruction is not finite at step 7"):
        train(config_of(tmp_path, training={"save_every": 1}), quiet=True)
    state = load_file(latest_state(tmp_path / "checkpoints") / "state.safetensors")
    assert all(bool(torch.isfinite(t).all()) for t in state.values() if t.is_floating_point())
    assert latest_state(tmp_path / "checkpoints").name == "step-00000007"


def test_ready_token_ids_mean_nothing_to_models_of_different_vocabularies(tmp_path):
    models = {"base": {"name": "transformers", "model": "tiny-pair/base"}, "chat": {"name": "synthetic"}}
    data = {**synthetic_run(str(tmp_path)), "models": models, "sites": ["base/layers.1", "chat/x"]}
    with pytest.raises(ConfigError, match="different vocabularies can read texts and chats, but not token ids"):
        train(RunConfig.from_dict(data), quiet=True)


def test_tensorboard_tracker_writes(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    data = {**synthetic_run(str(tmp_path)), "trackers": ["tensorboard"]}
    train(RunConfig.from_dict(data), quiet=True)
    assert list(tmp_path.rglob("events.out.tfevents*"))


def test_progress_bar_shows_what_matters(tmp_path, capsys):
    train(config_of(tmp_path))
    shown = capsys.readouterr().err
    assert re.search(r"tok/s.*EV -?\d\.\d+ -?\d\.\d+, L0 \d+\.\d, dead \d+\.\d%", shown)
