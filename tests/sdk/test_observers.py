"""What observers are told, what they log, and how they end a run."""

import json
import os
import signal
import sys

import pytest
import torch
from matplotlib.figure import Figure

import crosscoders_adapters
import crosscoders_plugins
from crosscoders import (
    Crosscoder,
    Observer,
    ObserverSpec,
    PluginError,
    RunConfig,
    RunView,
    hookimpl,
    train,
)
from crosscoders.errors import TrainingError, TrainingStopped
from crosscoders.processes import Processes
from crosscoders.testing import ObserverSuite, synthetic_run
from crosscoders.training.stopping import BY_OBSERVER, StopRequest
from runs import assert_bit_equal, config_of, weights


class Diary(Observer):
    """Notes all that it is told; `act`, if there is one, is called with each note."""

    notes: list = []
    act = None

    def __init__(self, options):
        pass

    def _note(self, what, run, more=None):
        Diary.notes.append((what, run.step))
        if Diary.act:
            Diary.act(what, run, more)

    def run_start(self, run):
        self._note("start", run)

    def step_end(self, run, report):
        assert report.step == run.step
        self._note("step", run, report)

    def evaluation_end(self, run, metrics):
        self._note("evaluation", run, metrics)

    def failure(self, run, error):
        self._note("failure", run, error)

    def run_end(self, run):
        assert run.crosscoder.info is not None
        self._note("end", run)


class Plugin:
    @hookimpl
    def crosscoders_observers(self):
        for name in ("diary", "second_diary"):
            yield ObserverSpec(
                name=name, config="crosscoders:NoOptions", build=f"{__name__}:Diary", summary="Notes what it is told."
            )


@pytest.fixture
def registry(crosscoders_registry):
    for module, name in ((crosscoders_adapters, "a"), (crosscoders_plugins, "p"), (Plugin(), "diaries")):
        crosscoders_registry.register(module, name=name)
    sys.modules.setdefault(__name__, sys.modules[Plugin.__module__])
    Diary.notes.clear()
    Diary.act = None
    yield crosscoders_registry
    Diary.act = None


def watched(folder, registry, *names, **changes):
    data = synthetic_run(str(folder), observers=[{"name": name} for name in names], **changes)
    return RunConfig.from_dict(data, registry=registry)


def run(folder, registry, *names, **changes):
    return train(watched(folder, registry, *names, **changes), quiet=True, registry=registry)


class TestDiary(ObserverSuite):
    name = "diary"

    @pytest.fixture
    def registry(self, registry):
        return registry

    def test_listing_it_does_not_import_torch(self):
        pytest.skip("it is in no distribution")


def test_only_named_ones_are_called_and_in_order(tmp_path, registry):
    run(tmp_path / "none", registry)
    assert Diary.notes == []
    run(tmp_path / "one", registry, "diary", training={"evaluate_every": 40, "save_every": 40})
    steps = [("step", n) for n in range(1, 81)]
    expected = [("start", 0), *steps[:40], ("evaluation", 40), *steps[40:], ("evaluation", 80), ("end", 80)]
    assert Diary.notes == expected


def test_one_that_goes_on_is_told_where(tmp_path, registry):
    def interrupt(what, view, more):
        if view.step == 30 and what == "step":
            os.kill(os.getpid(), signal.SIGTERM)

    Diary.act = interrupt
    with pytest.raises(TrainingStopped):
        run(tmp_path, registry, "diary")
    assert Diary.notes[-1] == ("failure", 30)
    Diary.act = None
    Diary.notes.clear()
    run(tmp_path, registry, "diary")
    assert Diary.notes[:2] == [("start", 30), ("step", 31)]


def stop_at_40(what, view, more):
    if view.step == 40 and what == "step":
        view.stop("it is good enough")


def test_it_ends_a_run_as_if_there_were_no_more_steps(tmp_path, registry, capsys):
    Diary.act = stop_at_40
    crosscoder = run(tmp_path, registry, "diary")
    reason = "stopped at step 40 of 80 by the observer 'diary': it is good enough"
    assert crosscoder.info.reading["stopped"] == reason and crosscoder.info.metrics["l0"] > 0
    assert reason in capsys.readouterr().err
    assert f"Training was {reason}." in (tmp_path / "crosscoder" / "README.md").read_text()
    assert Diary.notes[-2:] == [("evaluation", 40), ("end", 40)]
    saved = Crosscoder.from_pretrained(tmp_path / "crosscoder", registry=registry)
    assert saved.gate.name == "score_threshold"
    # The same command finds it finished; without the observer the run goes on, to where it had come by itself.
    Diary.notes.clear()
    run(tmp_path, registry, "diary")
    assert Diary.notes == [] and f"finished already ({reason})" in capsys.readouterr().err
    run(tmp_path, registry)
    train(config_of(tmp_path / "whole"), quiet=True)
    assert_bit_equal(weights(tmp_path), weights(tmp_path / "whole"))


def test_what_it_raises_names_it_and_the_others_hear_of_it(tmp_path, registry):
    def break_down(what, view, more):
        if view.step == 3 and what == "step":
            raise ValueError("out of ink")
        if what == "failure":
            raise OSError("no paper either")

    Diary.act = break_down
    with pytest.raises(TrainingError, match=r"the observer 'diary' of local 0 .* failed at step 3, in step_end: .*ink"):
        run(tmp_path, registry, "diary", "second_diary")
    assert Diary.notes[-2:] == [("failure", 3), ("failure", 2)]


def test_a_failure_at_the_end_leaves_the_crosscoder(tmp_path, registry):
    def break_down(what, view, more):
        if what == "end":
            raise ValueError("out of ink")

    Diary.act = break_down
    with pytest.raises(TrainingError, match="the crosscoder is saved"):
        run(tmp_path, registry, "diary")
    assert (tmp_path / "crosscoder" / "model.safetensors").is_file()


def test_numbers_and_figures_that_it_logs_are_kept(tmp_path, registry):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def log(what, view, more):
        if view.step == 2 and what == "step":
            figure = Figure(figsize=(2, 1))
            figure.add_subplot().plot([1, 2])
            view.log({"mine/loss": more.loss, "mine/curve": figure, "count": torch.tensor(3)})

    Diary.act = log
    run(tmp_path, registry, "diary", trackers=["tensorboard"])
    kept = [entry for entry in json.loads((tmp_path / "history.json").read_text()) if "mine/loss" in entry]
    assert len(kept) == 1 and kept[0]["step"] == 2 and kept[0]["count"] == 3.0
    assert (tmp_path / "figures" / "mine-curve-00000002.png").read_bytes().startswith(b"\x89PNG")
    events = EventAccumulator(str(next(tmp_path.rglob("events.out.tfevents*")).parent)).Reload()
    assert "mine/curve" in events.Tags()["images"] and events.Images("mine/curve")[0].width == 320


@pytest.mark.parametrize("values", [{"a name": 1.0}, {"x": "three"}, {"": 1.0}, {"x": object()}])
def test_what_cannot_be_logged_is_refused(tmp_path, values):
    view = RunView(crosscoder=None, config=config_of(tmp_path))
    with pytest.raises(PluginError, match=r"is not a (name|number)"):
        view.log(values)


def test_processes_agree_on_an_end():
    class Two(Processes):
        def most(self, tensor):
            return tensor.clamp_min(1)

    assert StopRequest().agreed(Two(world=2), torch.device("cpu"), asked=False) == BY_OBSERVER
    assert StopRequest().agreed(Processes(), torch.device("cpu"), asked=False) == 0


def test_a_class_without_the_base_is_refused(registry, tmp_path):
    class Other:
        @hookimpl
        def crosscoders_observers(self):
            yield ObserverSpec(name="other", config="crosscoders:NoOptions", build="crosscoders:NoOptions")

    registry.register(Other(), name="others")
    with pytest.raises(PluginError, match="'other' of local 0 .* could not be built"):
        run(tmp_path, registry, "other")
