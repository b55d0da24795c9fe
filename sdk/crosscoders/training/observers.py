"""Observers: what a config has watch a run, and what they see of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from attrs import define, field

from ..crosscoder.module import Crosscoder
from ..errors import CrosscodersError, PluginError, TrainingError
from ..plugins.choices import ObserverChoice
from ..plugins.isolation import worded
from ..plugins.registry import Registry
from ..processes import Processes
from .config import RunConfig
from .evaluate import Metrics
from .progress import StepReport, say

NAMES = re.compile(r"[\w.-]+(/[\w.-]+)*")
"""What logged values may be called."""


@define(eq=False, kw_only=True)
class RunView:
    """What an observer sees of a run, and what it may ask of it. Everything else is for reading only."""

    crosscoder: Crosscoder = field(repr=False)
    """The crosscoder in training. Its gate is that of the last evaluation."""
    config: RunConfig = field(repr=False)
    """The run's config."""
    is_main: bool = True
    """Whether this process is the one that writes files. Observers are called in every process."""
    observer: str = ""
    """The name by which the config chooses this observer."""
    step: int = 0
    """Number of optimizer steps done."""
    stopped: str = ""
    """The reason for which this observer has asked the run to stop; empty while it has not."""
    _record: Callable[[Mapping[str, float], Mapping[str, Any]], None] = field(default=lambda *_: None, repr=False)

    @property
    def output(self) -> Path:
        """The folder of the run."""
        return self.config.output

    @property
    def total_steps(self) -> int:
        """The number of steps of the whole run."""
        return self.config.training.num_steps

    def log(self, values: Mapping[str, Any]) -> None:
        """Record numbers and matplotlib figures of this step by name, such as `{"mine/spread": 0.3}`.

        Numbers go to the run's trackers and into `history.json`; figures go to those trackers that take images, and
        into the folder `figures` of the run as PNG. Only the main process records. `PluginError` where a name or value
        cannot be recorded.
        """
        numbers, figures = dict[str, float](), dict[str, Any]()
        for name, value in values.items():
            if not isinstance(name, str) or not NAMES.fullmatch(name):
                raise PluginError(f"{name!r} is not a name to log by: letters, digits, '_', '.', '-' and '/' between")
            if hasattr(value, "savefig"):
                figures[name] = value
                continue
            try:
                numbers[name] = float(value)
            except (TypeError, ValueError) as error:
                raise PluginError(
                    f"'{name}' is logged as a {type(value).__name__}, which is not a number or matplotlib figure"
                ) from error
        if self.is_main:
            self._record(numbers, figures)

    def stop(self, reason: str) -> None:
        """Ask the run to end after this step, as if it were the last: the crosscoder is evaluated and saved.

        `reason` is shown, and recorded in the checkpoint. The other crosscoders of a sweep end at the same step.
        """
        self.stopped = self.stopped or reason or "no reason given"


class Observer:
    """The base class of observers: override the moments that matter. They are called in every process, in this order.

    Whatever an observer raises ends the run with an error that names it.
    """

    def run_start(self, run: RunView) -> None:
        """Called before the first step; `run.step` is more than 0 where the run goes on from a checkpoint."""

    def step_end(self, run: RunView, report: StepReport) -> None:
        """Called after each optimizer step. The report's tensors are detached and on the device of the crosscoder."""

    def evaluation_end(self, run: RunView, metrics: Metrics) -> None:
        """Called after each evaluation on held-out tokens, the final one included. The crosscoder has its gate."""

    def failure(self, run: RunView, error: BaseException) -> None:
        """Called where the run ends by an error or a signal (`TrainingStopped`), which is raised afterwards."""

    def run_end(self, run: RunView) -> None:
        """Called at the end, when the crosscoder is saved with its final metrics; not after a failure."""


class Observers:
    """The observers of one run, called together."""

    def __init__(
        self,
        choices: Sequence[ObserverChoice],
        crosscoder: Crosscoder,
        config: RunConfig,
        processes: Processes,
        registry: Registry,
        record: Callable[[int, Mapping[str, float], Mapping[str, Any]], None],
    ) -> None:
        self.processes, self.record = processes, record
        self.started = False
        self._called: list[tuple[Observer, RunView, str]] = []
        for choice in choices:
            view = RunView(crosscoder=crosscoder, config=config, is_main=processes.is_main, observer=choice.name)
            view._record = partial(self._record, view)
            self._called.append((choice.build(registry=registry), view, str(choice.offer(registry))))

    def run_start(self, step: int, crosscoder: Crosscoder) -> None:
        """Begin at `step`, with the crosscoder that is trained or was found trained."""
        self.started = True
        for _, view, _ in self._called:
            view.crosscoder = crosscoder
        self._tell("run_start", step)

    def step_end(self, step: int, report: StepReport) -> None:
        """Tell of a step."""
        self._tell("step_end", step, report)

    def evaluation_end(self, step: int, metrics: Metrics) -> None:
        """Tell of an evaluation."""
        self._tell("evaluation_end", step, metrics)

    def run_end(self, step: int) -> None:
        """Tell of the end."""
        self._tell("run_end", step)

    def failure(self, error: BaseException) -> None:
        """Tell those that were told of the start that the run ends by `error`, which stays what is raised."""
        for observer, view, who in self._called if self.started else ():
            try:
                observer.failure(view, error)
            except Exception as another:
                say(f"{who} failed as it was told of a failure: {worded(another)}", self.processes)
        self.started = False

    @property
    def stopped(self) -> str:
        """By which observer the run is asked to end, and why; empty where by none."""
        asked = [f"the observer '{view.observer}': {view.stopped}" for _, view, _ in self._called if view.stopped]
        return "; ".join(asked)

    def _record(self, view: RunView, numbers: Mapping[str, float], figures: Mapping[str, Any]) -> None:
        self.record(view.step, numbers, figures)

    def _tell(self, moment: str, step: int, *about: Any) -> None:
        for observer, view, who in self._called:
            view.step = step
            try:
                getattr(observer, moment)(view, *about)
            except CrosscodersError as error:
                raise TrainingError(f"{who} failed at step {step}, in {moment}: {error}") from error
            except Exception as error:
                raise TrainingError(f"{who} failed at step {step}, in {moment}: {worded(error)}") from error
