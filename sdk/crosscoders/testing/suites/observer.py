"""Rules of observers, on small runs on the planted pair."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import attrs
import pytest
import torch
from safetensors.torch import load_file

from ...crosscoder.module import Crosscoder
from ...errors import TrainingError
from ...plugins.choices import ObserverChoice
from ...plugins.registry import Registry
from ...training import Observer, RunConfig, RunView, StepReport, evaluate, train
from ..fakes import synthetic_run
from .base import NamedSuite


class ObserverSuite(NamedSuite):
    """Rules of an observer, which a run on the planted pair has watch it."""

    choice = ObserverChoice
    stops: ClassVar[bool] = False
    """True for an observer that, with these options, ends the run of 80 steps early."""

    def observer(self, registry: Registry) -> Observer:
        """The observer under test, built anew."""
        observer: Observer = self.chosen(registry).build(registry=registry)
        return observer

    def _config(self, folder: Path, registry: Registry) -> RunConfig:
        data = synthetic_run(str(folder), observers=[{"name": self.name, **self.options}])
        return RunConfig.from_dict(data, registry=registry)

    @pytest.fixture
    def watched(self, registry: Registry, tmp_path: Path) -> Path:
        """The folder of a run that the observer has watched."""
        train(self._config(tmp_path / "watched", registry), quiet=True, registry=registry)
        return tmp_path / "watched"

    def test_a_run_that_it_watches_comes_to_the_same_end(self, watched: Path, planted_run: Path) -> None:
        config = json.loads((watched / "crosscoder" / "config.json").read_text(encoding="utf-8"))
        assert ("stopped" in config["reading"]) == self.stops
        if self.stops:
            assert f"by the observer '{self.name}': " in config["reading"]["stopped"]
            return
        expected = load_file(planted_run / "crosscoder" / "model.safetensors")
        for name, tensor in load_file(watched / "crosscoder" / "model.safetensors").items():
            assert torch.equal(tensor, expected[name]), f"{name} is not what it is without the observer"

    def _view(self, crosscoder: Crosscoder, folder: Path, registry: Registry, *, is_main: bool = True) -> RunView:
        config = self._config(folder, registry)
        return RunView(crosscoder=crosscoder, config=config, is_main=is_main, observer=self.name)

    def _report(self, crosscoder: Crosscoder, step: int) -> StepReport:
        fired_F = torch.arange(crosscoder.num_latents) % 2 == 0
        explained = dict.fromkeys(crosscoder.written.names, 0.5)
        return StepReport(
            step=step,
            loss=1.0,
            terms={"reconstruction": 1.0},
            l0=2.0,
            explained_variance=explained,
            dead_share=0.5,
            lr=1e-3,
            grad_norm=1.0,
            fired_F=fired_F,
        )

    def _whole_run(self, observer: Observer, view: RunView, *, first: int = 0) -> None:
        view.step = first
        observer.run_start(view)
        for view.step in range(first + 1, first + 6):
            observer.step_end(view, self._report(view.crosscoder, view.step))
        x_BX = torch.randn(64, view.crosscoder.layout.width, generator=torch.Generator().manual_seed(0))
        observer.evaluation_end(view, evaluate(view.crosscoder, [x_BX]))
        observer.run_end(view)

    def test_it_may_begin_in_the_middle(
        self, planted_crosscoder: Crosscoder, registry: Registry, tmp_path: Path
    ) -> None:
        view = self._view(planted_crosscoder, tmp_path / "run", registry)
        self._whole_run(self.observer(registry), view, first=40)

    def test_only_the_main_process_writes(
        self, planted_crosscoder: Crosscoder, registry: Registry, tmp_path: Path
    ) -> None:
        view = self._view(planted_crosscoder, tmp_path / "run", registry, is_main=False)
        self._whole_run(self.observer(registry), view)
        assert not list(tmp_path.rglob("*")), "a process that is not the main one wrote files"

    def test_numbers_that_are_undefined_do_not_end_a_run(
        self, planted_crosscoder: Crosscoder, registry: Registry, tmp_path: Path
    ) -> None:
        observer, view = self.observer(registry), self._view(planted_crosscoder, tmp_path / "run", registry)
        observer.run_start(view)
        view.step = 1
        undefined = dict.fromkeys(planted_crosscoder.written.names, float("nan"))
        observer.step_end(view, attrs.evolve(self._report(planted_crosscoder, 1), explained_variance=undefined))

    def test_a_failure_at_any_time_is_taken(
        self, planted_crosscoder: Crosscoder, registry: Registry, tmp_path: Path
    ) -> None:
        for steps in (0, 3):
            observer, view = self.observer(registry), self._view(planted_crosscoder, tmp_path / f"{steps}", registry)
            observer.run_start(view)
            for view.step in range(1, steps + 1):
                observer.step_end(view, self._report(planted_crosscoder, view.step))
            observer.failure(view, TrainingError("activations are not finite"))
