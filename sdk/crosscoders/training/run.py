"""One crosscoder in training, with its loss, checkpoints, metrics and observers; the caller supplies the batches."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from accelerate import Accelerator
from torch import Tensor

from ..activations import Calibration
from ..crosscoder.build import build_crosscoder
from ..crosscoder.info import CheckpointInfo, component_record
from ..crosscoder.initialise import initialise
from ..crosscoder.module import Crosscoder
from ..crosscoder.sites import SiteLayout
from ..errors import ConfigError
from ..losses.loss import Loss
from ..plugins.registry import Registry
from ..processes import Processes
from .config import RunConfig
from .evaluate import Metrics, evaluate
from .progress import RunView, StepReport
from .resume import latest_state, load_state, save_state
from .trainer import Trainer


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
        self.prefix = prefix
        self.crosscoder: Crosscoder = build_crosscoder(
            config.architecture, layout.sites, registry=registry, processes=processes
        )
        self.loss: Loss = config.loss.build(registry=registry)
        terms = getattr(config.loss.options, "terms", None)
        if processes.num_shards > 1 and (terms or not self.loss.shardable):
            raise ConfigError(f"the loss '{config.loss.name}', with its terms, does not support training.shards > 1")
        self.trainer = Trainer(
            self.crosscoder, self.loss, config.training, accelerator=accelerator, processes=processes
        )
        self.view = RunView(self.crosscoder, config.output, config.training.num_steps, processes.is_main)
        self.observers = [choice.build(registry=registry) for choice in config.observers]
        self.history: list[dict[str, float]] = []

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints to resume from."""
        return self.config.output / "checkpoints"

    # -- start and end ------------------------------------------------------------------------------------------

    def start(self, calibration: Calibration) -> None:
        """Set the normaliser and the initial weights from the statistics of the first tokens."""
        crosscoder = self.crosscoder
        crosscoder.normaliser.set_mean_norms(calibration.mean_norm_S)
        initialise(
            crosscoder,
            self.config.initialisation,
            decoder_norm=self.loss.decoder_norm,
            generator=torch.Generator().manual_seed(self.config.training.seed),
            mean_X=crosscoder.normaliser(calibration.mean_X.to(crosscoder.device)),
            sample_BX=crosscoder.normaliser(calibration.sample_BX.to(crosscoder.device)),
            firing_threshold=self.loss.firing_threshold,
        )

    def latest(self) -> int | None:
        """The step of the newest checkpoint, if there is one."""
        path = latest_state(self.checkpoints)
        return None if path is None else int(path.name.removeprefix("step-"))

    def resume(self, step: int) -> tuple[dict[str, Any], Tensor]:
        """Restore the checkpoint of a step; returns the saved position of the stream and the median norms."""
        path = self.checkpoints / f"step-{step:08d}"
        position, extra = load_state(path, self.trainer, config=self._identity())
        self.history = position["history"]
        return position["stream"], extra["median_norm_S"]

    def save(self, stream: Mapping[str, Any], median_norm_S: Tensor) -> None:
        """Write a checkpoint to resume from."""
        if self.processes.replica == 0:
            save_state(
                self.checkpoints,
                self.trainer,
                config=self._identity(),
                position={"stream": stream, "history": self.history},
                keep=self.config.training.keep_checkpoints,
                extra={"median_norm_S": median_norm_S},
            )
        self.processes.wait()

    def finish(self, models: Mapping[str, Any], held_out: Iterable[Tensor], reading: Mapping[str, Any]) -> None:
        """Evaluate, write the crosscoder and its history, notify the observers.

        What the models say of themselves and how the tokens were read goes into the record.
        """
        metrics = self.evaluate(held_out)
        self.crosscoder.eval()
        self.crosscoder.info = self._checkpoint_info(models, metrics, reading)
        if self.processes.replica == 0:
            self.crosscoder.save_pretrained(self.config.output / "crosscoder")
        if self.processes.is_main:
            (self.config.output / "history.json").write_text(json.dumps(self.history, indent=1))
        self.processes.wait()
        for observer in self.observers:
            observer.run_end(self.view)

    # -- on the way ---------------------------------------------------------------------------------------------

    def step(self, micro_batches: Sequence[Tensor]) -> StepReport:
        """Train on one global batch."""
        report = self.trainer.step(micro_batches)
        if report.step % self.config.training.log_every == 0 or report.step == self.config.training.num_steps:
            self._log(report.scalars(), report.step)
        for observer in self.observers:
            observer.step_end(self.view, report)
        return report

    def evaluate(self, held_out: Iterable[Tensor]) -> Metrics:
        """Metrics with the inference gate at the current state of training."""
        self.crosscoder.gate = self.loss.gate().to(self.crosscoder.device)
        metrics = evaluate(self.crosscoder, held_out, processes=self.processes)
        numbers = {"evaluation/l0": metrics.l0, "evaluation/dead_share": metrics.dead_share}
        numbers |= {f"evaluation/explained_variance/{k}": v for k, v in metrics.explained_variance.items()}
        self._log(numbers, self.trainer.step_number)
        return metrics

    def _log(self, numbers: Mapping[str, float], step: int) -> None:
        self.history.append({"step": step, **numbers})
        if self.config.trackers:
            self.accelerator.log({self.prefix + name: value for name, value in numbers.items()}, step=step)

    def _checkpoint_info(
        self, models: Mapping[str, Any], metrics: Metrics, reading: Mapping[str, Any]
    ) -> CheckpointInfo:
        recipe = self.config.to_dict()
        for key in ("output", "cache", "models_device"):
            del recipe[key]
        return CheckpointInfo(
            architecture=component_record(self.config.architecture, self.registry),
            loss=component_record(self.config.loss, self.registry),
            models={key: {**models[key], "config": recipe["models"][key]} for key in models},
            recipe=recipe,
            reading=dict(reading),
            metrics=attrs.asdict(metrics),
            own=True,
        )

    def _identity(self) -> dict[str, Any]:
        """The config that a resumed run must share: everything but where it writes and what observes it."""
        data = self.config.to_dict()
        for key in ("output", "trackers", "observers", "cache", "models_device"):
            del data[key]
        for key in ("save_every", "keep_checkpoints", "evaluate_every", "log_every", "shards"):
            del data["training"][key]
        del data["activations"]["prefetch"]
        return data
