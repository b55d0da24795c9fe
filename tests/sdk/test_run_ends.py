"""How runs end: asked to stop, failing after the last step, finished already, longer than before, damaged."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap

import pytest
import torch
from click.testing import CliRunner

from crosscoders import (
    CheckpointError,
    ConfigError,
    Crosscoder,
    CrosscodersError,
    RunConfig,
    TrainingError,
    TrainingStopped,
    sweep,
    train,
)
from crosscoders.cli import main
from crosscoders.testing import synthetic_run
from crosscoders.training import Runner
from crosscoders.training.resume import saved_steps
from crosscoders.training.sweep_report import _unbeaten as unbeaten
from crosscoders.training.sweep_report import sweep_report, sweep_rows, sweep_table
from crosscoders.training.trainer import Trainer
from runs import assert_bit_equal, config_of, launch, weights


@pytest.fixture
def at_step(monkeypatch):
    """Do something in the middle of a step."""

    def arrange(number, action):
        step = Trainer.step

        def stepping(self, parts):
            if self.step_number == number:
                action()
            return step(self, parts)

        monkeypatch.setattr(Trainer, "step", stepping)
        return lambda: monkeypatch.setattr(Trainer, "step", step)

    return arrange


def unless_ignored(number):
    """Whoever starts the tests by `nohup` has them ignore a signal, and then runs ignore it too."""
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip(f"{signal.Signals(number).name} is ignored here")


@pytest.mark.parametrize(
    ("number", "save_every"), [(signal.SIGINT, 0), (signal.SIGINT, 30), (signal.SIGTERM, 0), (signal.SIGHUP, 0)]
)
def test_a_signal_finishes_the_step_and_saves(planted_run, tmp_path, at_step, number, save_every, capfd):
    unless_ignored(number)
    before = signal.getsignal(number)
    undo = at_step(40, lambda: os.kill(os.getpid(), number))
    config = config_of(tmp_path, training={"save_every": save_every})
    with pytest.raises(TrainingStopped, match="stopped at step 41; the same command goes on from there") as caught:
        train(config, quiet=True)
    assert isinstance(caught.value, CrosscodersError) and isinstance(caught.value, KeyboardInterrupt)
    assert (caught.value.step, caught.value.exit_code) == (41, 128 + number)
    assert signal.getsignal(number) is before
    assert "stopping after this step; once more stops at once" in capfd.readouterr().err
    assert saved_steps(tmp_path / "checkpoints")[0] == 41
    assert not list(tmp_path.glob(".*")), "neither lock nor left-over"
    undo()
    train(config, quiet=True)
    assert "resuming from step 41" in capfd.readouterr().err
    assert_bit_equal(weights(planted_run), weights(tmp_path))


def test_a_terminal_that_has_gone_does_not_keep_a_run_from_being_saved(tmp_path, at_step, monkeypatch):
    """As its window is closed: the signal comes, and nothing can be written to the terminal from then on."""
    unless_ignored(signal.SIGHUP)
    reading, gone = os.pipe()
    os.close(reading)  # whoever writes to the other end fails, as with a terminal that is not there
    at_step(40, lambda: os.kill(os.getpid(), signal.SIGHUP))
    with os.fdopen(gone, "w") as terminal:
        for name in ("__stdout__", "__stderr__"):
            monkeypatch.setattr(sys, name, terminal)
        with pytest.raises(TrainingStopped) as caught:
            train(config_of(tmp_path), quiet=True)
        os.write(gone, b"nobody reads this")
    assert caught.value.exit_code == 129 and saved_steps(tmp_path / "checkpoints") == [41]


def test_nohup_is_respected(tmp_path, at_step, monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    at_step(3, lambda: os.kill(os.getpid(), signal.SIGHUP))
    try:
        train(config_of(tmp_path, training={"num_tokens": 1280}), quiet=True)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (tmp_path / "finished.json").exists()


def test_a_second_signal_stops_at_once(tmp_path, at_step, monkeypatch):
    monkeypatch.setattr("crosscoders.training.stopping.ECHO", 0.0)

    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    at_step(40, twice)
    with pytest.raises(KeyboardInterrupt) as caught:
        train(config_of(tmp_path), quiet=True)
    assert not isinstance(caught.value, TrainingStopped) and not saved_steps(tmp_path / "checkpoints")


def toml(path, data):
    path.write_text("\n".join(f"{key} = {inline(value)}" for key, value in data.items()))
    return path


def inline(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {inline(item)}" for key, item in value.items()) + "}"
    return json.dumps(value)


@pytest.mark.usefixtures("restored_environment")
def test_the_command_exits_with_the_signal(tmp_path, at_step):
    file = toml(tmp_path / "run.toml", synthetic_run(str(tmp_path / "run")))
    undo = at_step(40, lambda: os.kill(os.getpid(), signal.SIGTERM))
    found = CliRunner().invoke(main, ["train", str(file), "--quiet", "--fresh"])
    assert found.exit_code == 143 and "goes on from there (without --fresh)" in found.output
    undo()
    found = CliRunner().invoke(main, ["train", str(file), "--quiet", "--set", "training.log_every=7"])
    assert found.exit_code == 0 and "resuming from step 41" in found.output
    found = CliRunner().invoke(main, ["train", str(file), "--quiet"])
    assert found.exit_code == 0 and "finished already, at step 80" in found.output and "L0" in found.output
    found = CliRunner().invoke(main, ["train", str(file), "--quiet", "--set", "training.nonsense=7"])
    assert found.exit_code == 1 and "nonsense" in found.output
    found = CliRunner().invoke(main, ["train", str(file), "--quiet", "--set", "sites.x=7"])
    assert found.exit_code == 1 and "'sites.x' names no value: 'sites' is not a table" in found.output


@pytest.mark.slow
def test_processes_agree_on_the_step(planted_run, tmp_path):
    """Only one of two gets the signal; both stop after the same step, and one process goes on."""
    (tmp_path / "stop.py").write_text(
        textwrap.dedent("""
        import json, os, signal, sys
        from crosscoders import RunConfig, TrainingStopped, train
        from crosscoders.training.trainer import Trainer
        step = Trainer.step
        def stepping(self, parts):
            if self.step_number == 40 and os.environ["RANK"] == "1":
                os.kill(os.getpid(), signal.SIGTERM)
            return step(self, parts)
        Trainer.step = stepping
        try:
            train(RunConfig.from_dict(json.loads(sys.argv[1])), quiet=True)
        except TrainingStopped as stopped:
            assert stopped.step == 41, stopped.step
        else:
            raise AssertionError("not stopped")
        """)
    )
    data = synthetic_run(str(tmp_path / "run"))
    launch(tmp_path / "stop.py", json.dumps(data), processes=2)
    assert saved_steps(tmp_path / "run" / "checkpoints") == [41]
    train(RunConfig.from_dict(data), quiet=True)
    first, second = weights(planted_run), weights(tmp_path / "run")
    for key in first:
        torch.testing.assert_close(first[key], second[key], rtol=1e-3, atol=1e-4)


def test_a_finished_run_is_not_trained_again(tmp_path, capfd, monkeypatch):
    config = config_of(tmp_path, training={"save_every": 30})
    train(config, quiet=True)
    assert saved_steps(tmp_path / "checkpoints") == [80, 60], "its end too, to go on from"
    made = (tmp_path / "crosscoder").stat().st_mtime_ns
    monkeypatch.setattr(Trainer, "step", None)
    crosscoder = train(config, quiet=True)
    assert "finished already, at step 80" in capfd.readouterr().err
    assert (tmp_path / "crosscoder").stat().st_mtime_ns == made and crosscoder.info.metrics["l0"] > 0


def test_a_kill_after_the_last_save_leaves_no_checkpoint_too_many(tmp_path):
    config = config_of(tmp_path, training={"save_every": 30, "num_tokens": 15_360})
    train(config, quiet=True)
    steps = tmp_path / "checkpoints"
    assert saved_steps(steps) == [60, 30]
    shutil.copytree(steps / "step-00000030", steps / "step-00000015")
    (tmp_path / "finished.json").unlink()
    train(config, quiet=True)
    assert saved_steps(steps) == [60, 30]


def test_what_fails_after_training_finds_the_crosscoder_saved(tmp_path, monkeypatch, planted_run):
    evaluate = "crosscoders.training.run.evaluate"
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, lambda *_, **__: 1 / 0)
        with pytest.raises(TrainingError, match=r"evaluation failed after training: ZeroDivisionError.*is saved: "):
            train(config_of(tmp_path), quiet=True)
    assert_bit_equal(weights(planted_run), weights(tmp_path))
    assert Crosscoder.from_pretrained(tmp_path / "crosscoder").info.metrics == {}
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", None)  # the same command only evaluates
        crosscoder = train(config_of(tmp_path), quiet=True)
    assert crosscoder.info.metrics == Crosscoder.from_pretrained(planted_run / "crosscoder").info.metrics
    assert Crosscoder.from_pretrained(tmp_path / "crosscoder").info.metrics == crosscoder.info.metrics
    assert_bit_equal(weights(planted_run), weights(tmp_path))


def test_a_longer_run_goes_on_while_the_rate_is_constant(tmp_path, capfd):
    training = {"save_every": 30, "warmup_share": 0.0, "decay_share": 0.0}
    train(config_of(tmp_path, training=training), quiet=True)
    longer = {**training, "num_tokens": 25_600}
    crosscoder = train(config_of(tmp_path, training=longer), quiet=True)
    said = capfd.readouterr().err
    assert "resuming from step 80" in said and "begun for 20480 tokens, goes on to 25600" in said
    assert crosscoder.info.recipe["training"]["num_tokens"] == 25_600
    assert any("num_tokens_before" in entry for entry in json.loads((tmp_path / "history.json").read_text()))
    with pytest.raises(CheckpointError, match=r"training\.num_tokens was 25600 and is now 20480"):
        train(config_of(tmp_path, training=training), quiet=True)


def test_a_longer_run_takes_the_last_checkpoint_before_the_rate_fell(tmp_path, capfd):
    train(config_of(tmp_path, training={"save_every": 60}), quiet=True)
    train(config_of(tmp_path, training={"save_every": 60, "num_tokens": 25_600}), quiet=True)
    said = capfd.readouterr().err
    assert "whose learning rate was not constant there (step 80)" in said and "resuming from step 60" in said
    assert saved_steps(tmp_path / "checkpoints") == [100, 60], "80 was of a course that was left"
    shutil.rmtree(tmp_path / "checkpoints" / "step-00000060")
    with pytest.raises(CheckpointError, match=r"cannot go on to 51200 tokens; .* initialisation\.from_crosscoder"):
        train(config_of(tmp_path, training={"keep_checkpoints": 1, "num_tokens": 51_200}), quiet=True)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(planted_run, tmp_path, at_step, capfd):
    class Stop(Exception):
        pass

    def stop():
        raise Stop

    undo = at_step(70, stop)
    config = config_of(tmp_path, training={"save_every": 20, "keep_checkpoints": 3})
    with pytest.raises(Stop):
        train(config, quiet=True)
    undo()
    newest = tmp_path / "checkpoints" / "step-00000060"
    whole = (newest / "state.safetensors").read_bytes()
    (newest / "state.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "checkpoints" / "step-00000040" / "state.json").write_text("{")
    train(config, quiet=True)
    said = capfd.readouterr().err
    assert "step-00000060 cannot be read" in said and "step-00000040 cannot be read" in said
    assert "resuming from step 20" in said
    assert_bit_equal(weights(planted_run), weights(tmp_path))
    for path in (tmp_path / "checkpoints").iterdir():
        (path / "state.json").write_text("{}")
    (tmp_path / "finished.json").unlink()
    with pytest.raises(CheckpointError, match=r"no other checkpoint will do, and --fresh \(resume=False\) starts anew"):
        train(config, quiet=True)
    train(config, quiet=True, resume=False)
    assert_bit_equal(weights(planted_run), weights(tmp_path))


def test_a_crosscoder_starts_from_another(planted_run, tmp_path):
    start = str(planted_run / "crosscoder")
    trained = Crosscoder.from_pretrained(start)
    changes = {"initialisation": {"from_crosscoder": start}, "training": {"num_tokens": 256, "lr": 1e-9}}
    runner = Runner(config_of(tmp_path / "a", **changes))
    (run,) = runner.runs
    run.start(runner.source.calibrate())
    assert_bit_equal(
        {k: v for k, v in trained.state_dict().items() if not k.startswith("gate")},
        {k: v for k, v in run.crosscoder.state_dict().items() if not k.startswith("gate")},
    )
    assert float(run.loss.gate().threshold) == pytest.approx(float(trained.gate.threshold))
    crosscoder = train(config_of(tmp_path / "b", **changes), quiet=True)
    for site, value in trained.info.metrics["explained_variance"].items():
        assert crosscoder.info.metrics["explained_variance"][site] == pytest.approx(value, abs=0.05)
    with pytest.raises(ConfigError, match=r"has other groups than this run: 32 latents 'all', here 16 latents 'all'"):
        train(config_of(tmp_path / "c", architecture={"num_latents": 16}, **changes), quiet=True)
    with pytest.raises(ConfigError, match="leave from_saes and firing_rate out"):
        config_of(tmp_path / "d", initialisation={"from_crosscoder": start, "firing_rate": 0.1})


def test_two_runs_do_not_share_a_folder(tmp_path, at_step):
    problems = []

    def second():
        with pytest.raises(ConfigError) as caught:
            train(config_of(tmp_path), quiet=True)
        problems.append(str(caught.value))

    at_step(3, second)
    train(config_of(tmp_path), quiet=True)
    assert re.search(rf"is in use: process {os.getpid()} on .* works there", problems[0])


def test_a_tracker_that_cannot_be_had_is_refused_before_the_first_step(tmp_path):
    with pytest.raises(ConfigError, match=r"none called 'tensorbord'; there are .*; did you mean 'tensorboard'\?"):
        train(RunConfig.from_dict({**synthetic_run(str(tmp_path)), "trackers": ["tensorbord"]}), quiet=True)
    with pytest.raises(ConfigError, match=r"'dvclive' needs the package dvclive, and it is not installed"):
        train(RunConfig.from_dict({**synthetic_run(str(tmp_path)), "trackers": ["dvclive"]}), quiet=True)
    assert not list(tmp_path.iterdir())


def test_runs_of_both_precisions_follow_each_other(tmp_path):
    for number, precision in enumerate(("no", "bf16", "no")):
        crosscoder = train(
            config_of(tmp_path / str(number), training={"mixed_precision": precision, "num_tokens": 512}), quiet=True
        )
        assert crosscoder.info.recipe["training"]["mixed_precision"] == precision
    first, second, third = (weights(tmp_path / str(number)) for number in range(3))
    assert_bit_equal(first, third)
    assert not torch.equal(first["W_enc.0"], second["W_enc.0"])


def test_a_sweep_ends_in_a_table(tmp_path):
    config = config_of(tmp_path, training={"num_tokens": 2560})
    found = sweep(config, {"loss.k": [1, 2]}, quiet=True)
    rows = json.loads((tmp_path / "sweep.json").read_text())
    assert [row["values"] for row in rows] == [{"loss.k": 1}, {"loss.k": 2}]
    assert [row["folder"] for row in rows] == ["k=1", "k=2"] and rows[0]["metrics"]["l0"] < rows[1]["metrics"]["l0"]
    assert rows[0]["operations"] < rows[1]["operations"] and rows[0]["front"]["l0"]
    head, first, _ = sweep_table(sweep_rows(found, {"loss.k": [1, 2]}))
    assert head.split() == ["loss.k", "EV", "base/x", "EV", "chat/x", "L0", "silent", "folder"]
    assert first.startswith("1 ") and first.endswith("k=1")
    report = json.loads((tmp_path / "report.json").read_text())[0]
    assert [row["folder"] for row in report["data"]["crosscoders"]] == ["k=1", "k=2"]
    assert (tmp_path / "report.html").read_text().count("<svg") == 2


def swept(folder, explained, l0, operations, **values):
    metrics = {"l0": l0, "silent_share": 0.0, "explained_variance": {"a/x": explained}}
    row = {"folder": folder, "values": values, "num_latents": 8, "operations": operations, "metrics": metrics}
    return row | {"mean_explained_variance": explained}


def test_a_sweep_says_which_crosscoders_no_other_beats():
    dominated = swept("b", 0.7, 9.0, 200)
    rows = [swept("a", 0.8, 8.0, 300), dominated, swept("c", 0.6, 4.0, 100), swept("d", None, 1.0, 1)]
    twin = [swept("a", 0.8, 8.0, 300), swept("e", 0.8, 8.0, 300)]
    assert [unbeaten(row, rows, "l0") for row in rows] == [True, False, True, False]
    assert [unbeaten(row, rows, "operations") for row in rows] == [True, True, True, False]
    # Of two equal ones neither beats the other.
    assert all(unbeaten(row, twin, "l0") for row in twin)


def test_a_sweeps_lines_are_what_differs_beside_numbers_of_the_loss():
    kinds = [{"name": "acausal", "num_latents": 8}, {"name": "per_layer_saes", "num_latents": 8}]
    rows = [swept(f"{kind['name']}{k}", k / 10, k, k, **{"loss.k": k, "architecture": kind})
            for kind in kinds for k in (4, 2)]  # fmt: skip
    for row in rows:
        row["front"] = {"l0": False, "operations": True}
    svg = next(part.svg for part in sweep_report(rows).parts)
    assert svg.count("acausal num_latents 8") >= 1 and svg.count("per_layer_saes num_latents 8") >= 1
    assert "loss.k" not in svg and "k 4" not in svg


@pytest.mark.usefixtures("restored_environment")
def test_info_says_that_there_is_no_such_folder(tmp_path):
    for name in (str(tmp_path / "nope"), "./nope", "../nope"):
        found = CliRunner().invoke(main, ["info", name])
        assert found.exit_code == 1 and f"there is no folder {name}" in found.output


def test_an_ended_process_leaves_no_zombie_lock(tmp_path):
    """A lock of a killed process does not keep the next one out."""
    data = json.dumps(synthetic_run(str(tmp_path / "run")))
    code = "import json, sys, os; from crosscoders import RunConfig, train\n" + textwrap.dedent("""
        from crosscoders.training.trainer import Trainer
        Trainer.step = lambda *_: os.kill(os.getpid(), 9)
        train(RunConfig.from_dict(json.loads(sys.argv[1])), quiet=True)
    """)
    subprocess.run([sys.executable, "-c", code, data], check=False)
    assert (tmp_path / "run" / ".lock").exists()
    train(RunConfig.from_dict(json.loads(data)), quiet=True)
    assert not (tmp_path / "run" / ".lock").exists()
