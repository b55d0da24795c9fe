"""The numbers and figures of a run: its history on disk, and what trackers are told."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from accelerate import Accelerator

from ..files import disk_errors, write_whole
from ..processes import Processes
from ..reports.figures import Drawing
from .config import RunConfig
from .progress import say

HISTORY = "history.json"


class Record:
    """What a run has logged so far. `prefix` distinguishes it in the trackers from other runs of the same sweep."""

    def __init__(self, config: RunConfig, accelerator: Accelerator, processes: Processes, *, prefix: str) -> None:
        self.config, self.accelerator, self.processes, self.prefix = config, accelerator, processes, prefix
        self.entries: list[dict[str, float]] = []
        self._untracked = False

    def add(self, step: int, numbers: Mapping[str, float]) -> None:
        """Record numbers without telling the trackers."""
        self.entries.append({"step": step, **numbers})

    def write(self) -> None:
        """Write the history into the run's folder."""
        write_whole(self.config.output / HISTORY, json.dumps(self.entries, indent=1))

    def read(self) -> None:
        """Go on from the history in the run's folder; from none where it cannot be read."""
        try:
            self.entries = json.loads((self.config.output / HISTORY).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self.entries = []

    def observed(self, step: int, numbers: Mapping[str, float], figures: Mapping[str, Any]) -> None:
        """Record what an observer logs."""
        if numbers:
            self.log(numbers, step)
        for name, figure in figures.items():
            path = self.config.output / "figures" / f"{name.replace('/', '-')}-{step:08d}.png"
            with disk_errors(path.parent):
                path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, Drawing(figure).save_png)
            if self.config.trackers:
                self._track_figure(self.prefix + name, figure, step)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Record numbers, and tell the trackers."""
        self.add(step, numbers)
        if self.config.trackers:
            self._track({self.prefix + name: value for name, value in numbers.items()}, step)

    def _track(self, numbers: Mapping[str, float], step: int) -> None:
        self._tracked(lambda: self.accelerator.log(dict(numbers), step=step), step)

    def _track_figure(self, name: str, figure: Any, step: int) -> None:
        images_NHWC = Drawing(figure).pixels()[None]
        for tracker in self.accelerator.trackers:
            if hasattr(tracker, "log_images"):
                form = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                self._tracked(partial(tracker.log_images, {name: images_NHWC}, step=step, **form), step)

    def _tracked(self, log: Callable[[], Any], step: int) -> None:
        try:
            log()
        except Exception as error:
            # A run of days does not end because a server cannot be reached; its folder has the numbers too.
            if not self._untracked:
                say(f"trackers: step {step} was not logged: {type(error).__name__}: {error}", self.processes)
            self._untracked = True
