"""One crosscoder in training, with its loss, checkpoints, metrics and observers; the caller supplies the batches."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs
import torch
from accelerate import Accelerator
from torch import Tensor

from ..activations import Calibration
from ..checkpoints.checkpoint import load_crosscoder, save_crosscoder
from ..crosscoder.build import build_crosscoder
from ..crosscoder.initialise import initialise
from ..crosscoder.module import Crosscoder
from ..crosscoder.sites import SiteLayout
from ..errors import CheckpointError, CrosscodersError, TrainingError
from ..files import disk_errors, first_difference, write_whole
from ..losses.loss import Loss
from ..plugins.registry import Registry
from ..privacy.configs import recorded, recorded_like
from ..processes import Processes
from .checks import check_loss
from .config import RunConfig
from .continuing import longer_by
from .evaluate import Metrics, evaluate
from .identity import checkpoint_info, chosen, identity
from .metric import build_metrics
from .observers import Observers
from .progress import StepReport, say
from .record import Record
from .resume import load_state, prune, save_state, saved_steps
from .trainer import Trainer

FINISHED = "finished.json"


class TrainingRun:
    """Builds what `config` names and trains it on the batches that it is given.

    `prefix` distinguishes its numbers in the trackers from those of other runs of the same sweep.
    """

    def __init__(
        self,
        config: RunConfig,
        layout: SiteLayout,
        accelerator: Accelerator,
        processes: Processes,
        registry: Registry,
        *,
        prefix: str = "",
    ) -> None:
        self.config, self.accelerator, self.processes, self.registry = config, accelerator, processes, registry
        self.crosscoder: Crosscoder = build_crosscoder(
            config.architecture, layout.sites, registry=registry, processes=processes
        )
        self.loss: Loss = config.loss.build(registry=registry)
        self.trainer = Trainer(
            self.crosscoder, self.loss, config.training, accelerator=accelerator, processes=processes
        )
        check_loss(config, self.loss, self.crosscoder, registry)
        self.record = Record(config, accelerator, processes, prefix=prefix)
        self.identity = identity(config)
        self.metrics = build_metrics(config.metrics, registry=registry)
        self.observers = Observers(config.observers, self.crosscoder, config, processes, registry, self.record.observed)
        self.recorded_reading: dict[str, Any] = {}
        """How the tokens of a crosscoder that was read from disk were read."""
        self._began_at = -1
        self._saved: set[int] = set()
        self.trained = False
        """Whether the crosscoder was read from disk, trained to its end: its gate then came with it."""

    @cached_property
    def _recorded(self) -> dict[str, Any]:
        """The identity as files have it."""
        return recorded(self.identity)

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints to resume from."""
        return self.config.output / "checkpoints"

    # -- start and end ------------------------------------------------------------------------------------------

    def start(self, calibration: Calibration) -> None:
        """Set the normaliser and the initial weights from the statistics of the first tokens."""
        crosscoder = self.crosscoder
        crosscoder.normaliser.set_mean_norms(calibration.mean_norm_S)
        gate = initialise(
            crosscoder,
            self.config.initialisation,
            decoder_norm=self.loss.decoder_norm,
            generator=torch.Generator().manual_seed(self.config.training.seed),
            mean_X=crosscoder.normaliser(calibration.mean_X.to(crosscoder.device)),
            sample_BX=crosscoder.normaliser(calibration.sample_BX.to(crosscoder.device)),
            firing_threshold=self.loss.firing_threshold,
        )
        if gate is not None:
            self.loss.start_from(gate)

    def saved_steps(self) -> list[int]:
        """The steps of the checkpoints there are, newest first."""
        return saved_steps(self.checkpoints)

    def resume(self, step: int) -> tuple[dict[str, Any], Tensor]:
        """Go to the checkpoint of a step; the stream's position and the median norms it was saved with.

        `OtherRunError` where it is of another run, any other `CheckpointError` where it is damaged.
        """
        path = self.checkpoints / f"step-{step:08d}"
        try:
            position, extra, then = load_state(path, self.trainer, config=self.identity)
            self.record.entries, place, median_norm_S = position["history"], position["stream"], extra["median_norm_S"]
        except (KeyError, TypeError, AttributeError, IndexError, ValueError, RuntimeError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"the checkpoint {path} cannot be read: {error!r}") from error
        self._began_at = step
        longer = longer_by(then, self.identity)
        if longer:
            self.record.add(step, {"num_tokens_before": longer[0], "num_tokens": longer[1]})
            say(
                f"{self.config.output}: begun for {longer[0]} tokens, goes on to {longer[1]}; what is a share of the "
                "run (decay, ramps, the dead window) is a share of the longer one from here on",
                self.processes,
            )
        return place, median_norm_S

    def save(self, stream: Mapping[str, Any], median_norm_S: Tensor) -> None:
        """Write a checkpoint to resume from."""
        if self.processes.replica == 0:
            save_state(
                self.checkpoints,
                self.trainer,
                config=self._recorded,
                position={"stream": stream, "history": self.record.entries},
                extra={"median_norm_S": median_norm_S},
            )
        self._saved.add(self.trainer.step_number)
        self.processes.wait()

    def prune(self) -> None:
        """Remove checkpoints that are no longer wanted."""
        if self.processes.is_main and (self._saved or self._began_at >= 0):
            keep = self.config.training.keep_checkpoints
            prune(self.checkpoints, lambda step: step <= self._began_at or step in self._saved, keep=keep)

    def begin(self) -> None:
        """Forget that an earlier run was finished here: another begins, or goes on."""
        if self.processes.is_main:
            with disk_errors(self.config.output):
                (self.config.output / FINISHED).unlink(missing_ok=True)

    def write(self, models: Mapping[str, Any], reading: Mapping[str, Any], metrics: Metrics | None = None) -> None:
        """Write the crosscoder as training has left it, its history, and that the run is finished.

        With `metrics`, of one that was written without; its weights stay as they are on disk.
        """
        self.crosscoder.eval()
        self.crosscoder.info = checkpoint_info(self.config, self.registry, models, metrics, reading)
        if self.processes.replica == 0:
            folder, done = self.config.output / "crosscoder", metrics is not None
            save_crosscoder(self.crosscoder, folder, registry=self.registry, weights_are_there=done)
        if self.processes.is_main:
            self.record.write()
            finished = {"config": self._recorded, "evaluated": metrics is not None, **chosen(self.config)}
            write_whole(self.config.output / FINISHED, json.dumps(finished, indent=1))
        self.processes.wait()

    def conclude(
        self,
        models: Mapping[str, Any],
        reading: Mapping[str, Any],
        held_out: Iterable[Tensor],
        spliced: Callable[[Crosscoder], Mapping[str, Mapping[str, float]]],
    ) -> None:
        """Evaluate what `write` has saved, write it with its metrics, tell the observers of the end.

        `TrainingError` where something of that fails, which says that the crosscoder is safe.
        """
        try:
            metrics = attrs.evolve(self._evaluated(held_out), spliced=spliced(self.crosscoder))
            self.write(models, reading, metrics)
        except Exception as error:
            raise self._after_training("evaluation", error) from error
        try:
            self.observers.evaluation_end(self.trainer.step_number, metrics)
            self.observers.run_end(self.trainer.step_number)
        except Exception as error:
            raise self._after_training("an observer", error) from error

    def finished(self) -> tuple[Crosscoder, bool] | None:
        """The crosscoder of an earlier call that trained this run to its end, and whether it was evaluated too."""
        path = self.config.output / FINISHED
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            same = first_difference(content["config"], recorded_like(content["config"], self.identity)) is None
            now = json.loads(json.dumps(chosen(self.config)))
            evaluated = bool(content["evaluated"]) and content.get("metrics", []) == now["metrics"]
            if not same:
                return None
            folder = self.config.output / "crosscoder"
            crosscoder = load_crosscoder(folder, registry=self.registry, processes=self.processes)
            ended = crosscoder.info is not None and "stopped" in crosscoder.info.reading
            if ended and content["observers"] != now["observers"]:
                return None  # what an observer has ended goes on without it
        except (OSError, ValueError, KeyError, TypeError, CrosscodersError):
            return None
        return crosscoder, evaluated

    def adopt(self, crosscoder: Crosscoder) -> None:
        """Be the run that has trained `crosscoder`, as `finished` found it."""
        self.crosscoder, self.trained = crosscoder.to(self.accelerator.device), True
        self.trainer.step_number = self.config.training.num_steps
        self.recorded_reading = dict(crosscoder.info.reading) if crosscoder.info else {}
        self.record.read()

    def _after_training(self, what: str, error: Exception) -> TrainingError:
        reason = str(error) if isinstance(error, CrosscodersError) else f"{type(error).__name__}: {error}"
        return TrainingError(
            f"{what} failed after training: {reason} (the crosscoder is saved: {self.config.output / 'crosscoder'})"
        )

    # -- on the way ---------------------------------------------------------------------------------------------

    def step(self, micro_batches: Sequence[Tensor]) -> StepReport:
        """Train on one global batch."""
        report = self.trainer.step(micro_batches)
        if report.step % self.config.training.log_every == 0 or report.step == self.config.training.num_steps:
            self.record.log(report.scalars(), report.step)
        self.observers.step_end(report.step, report)
        return report

    def evaluate(self, held_out: Iterable[Tensor]) -> None:
        """Record metrics of the inference gate as training stands now."""
        self.observers.evaluation_end(self.trainer.step_number, self._evaluated(held_out))

    def _evaluated(self, held_out: Iterable[Tensor]) -> Metrics:
        self.set_gate()
        metrics = evaluate(self.crosscoder, held_out, metrics=self.metrics, processes=self.processes)
        numbers = {f"evaluation/{name}": value for name, value in metrics.scalars().items()}
        self.record.log(numbers, self.trainer.step_number)
        return metrics

    def set_gate(self) -> None:
        """Give the crosscoder the gate of training as it stands now."""
        if not self.trained:
            self.crosscoder.gate = self.loss.gate().to(self.crosscoder.device)
