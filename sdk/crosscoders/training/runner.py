"""The runner: from a config to a trained crosscoder, on one process or several."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm

from ..activations import (
    ActivationStream,
    Calibration,
    Harvester,
    SequenceReader,
    calibrate,
    keep_mask,
    reader_of,
    reading_adapter,
)
from ..activations.harvest import resolve_sites
from ..activations.sequences import Split
from ..checkpoint import CheckpointInfo
from ..configs import unstructure
from ..crosscoder import Crosscoder
from ..errors import TrainingError
from ..initialise import initialise
from ..losses import Loss
from ..plugins import Registry, get_registry
from ..protocols import ModelAdapter, TokenSource
from .config import RunConfig
from .evaluate import Metrics, evaluate
from .progress import RunView, StepReport
from .resume import latest_state, load_state, save_state
from .trainer import Trainer


class Runner:
    """One training run. `run()` trains, evaluates, saves to `config.output / "crosscoder"` and returns it."""

    def __init__(self, config: RunConfig, *, registry: Registry | None = None) -> None:
        self.config = config
        self.registry = registry or get_registry()
        self.accelerator = Accelerator(
            cpu=config.device == "cpu",
            mixed_precision=config.training.mixed_precision,
            log_with=list(config.trackers) or None,
            project_dir=str(config.output),
        )
        self.adapters: dict[str, ModelAdapter] = {
            key: choice.build(registry=self.registry).to(self.accelerator.device)
            for key, choice in config.models.items()
        }
        self.layout = resolve_sites(self.adapters, config.sites)
        self.reading = reading_adapter(self.adapters, config.tokenizer)
        self.source: TokenSource = config.tokens.build(registry=self.registry)
        self.crosscoder: Crosscoder = config.architecture.make(self.layout.sites, registry=self.registry)
        self.loss: Loss = config.loss.build(registry=self.registry)
        self.harvester = Harvester(
            self.adapters,
            self.layout,
            rows_per_forward=config.activations.rows_per_forward,
            device=self.accelerator.device,
        )
        self._median_norm_S: Tensor | None = None
        self._history: list[dict[str, float]] = []

    def run(self, *, resume: bool = True, quiet: bool = False) -> Crosscoder:
        """Train to the end. With `resume`, go on from the newest checkpoint in the output folder, if there is one."""
        config, training = self.config, self.config.training
        checkpoints = config.output / "checkpoints"
        trainer = Trainer(self.crosscoder, self.loss, training, accelerator=self.accelerator)
        start = latest_state(checkpoints) if resume else None
        stream = self._start() if start is None else self._resume(trainer, start)
        self._start_trackers()
        observers = [choice.build(registry=self.registry) for choice in config.observers]
        view = RunView(self.crosscoder, config.output, training.num_steps, self.accelerator.is_main_process)
        bar = tqdm(
            total=training.num_steps * training.batch_size,
            initial=trainer.step_number * training.batch_size,
            unit="tok",
            unit_scale=True,
            disable=quiet or not self.accelerator.is_main_process,
            desc="training",
        )
        batches = iter(stream)
        while trainer.step_number < training.num_steps:
            report = trainer.step(self._parts(batches, trainer.step_number))
            bar.update(training.batch_size)
            self._show(bar, report)
            for observer in observers:
                observer.step_end(view, report)
            if training.evaluate_every and report.step % training.evaluate_every == 0:
                self._evaluate(report.step)
            if training.save_every and report.step % training.save_every == 0:
                self._save_state(checkpoints, trainer, stream)
        bar.close()
        self._finish(training.num_steps)
        for observer in observers:
            observer.run_end(view)
        self.accelerator.end_training()
        return self.crosscoder

    # -- start and end ------------------------------------------------------------------------------------------

    def _start(self) -> ActivationStream:
        accelerator = self.accelerator
        found = calibrate(
            self._reader("train"),
            self.harvester,
            self.config.activations,
            rank=accelerator.process_index,
            world=accelerator.num_processes,
            gather=accelerator.gather,
        )
        self._median_norm_S = found.median_norm_S
        self._initialise(found)
        return self._stream()

    def _initialise(self, found: Calibration) -> None:
        crosscoder = self.crosscoder
        crosscoder.normaliser.set_mean_norms(found.mean_norm_S)
        initialise(
            crosscoder,
            self.config.initialisation,
            decoder_norm=self.loss.decoder_norm,
            generator=torch.Generator().manual_seed(self.config.training.seed),
            mean_X=crosscoder.normaliser(found.mean_X.to(crosscoder.device)),
            sample_BX=crosscoder.normaliser(found.sample_BX.to(crosscoder.device)),
            firing_threshold=self.loss.firing_threshold,
        )

    def _resume(self, trainer: Trainer, path: Path) -> ActivationStream:
        position, extra = load_state(path, trainer, config=self._identity())
        self._median_norm_S = extra["median_norm_S"]
        self._history = position["history"]
        stream = self._stream()
        stream.restore(position["stream"])
        return stream

    def _save_state(self, folder: Path, trainer: Trainer, stream: ActivationStream) -> None:
        if self.accelerator.is_main_process:
            assert self._median_norm_S is not None
            save_state(
                folder,
                trainer,
                config=self._identity(),
                position={"stream": stream.state(), "history": self._history},
                keep=self.config.training.keep_checkpoints,
                extra={"median_norm_S": self._median_norm_S},
            )
        self.accelerator.wait_for_everyone()

    def _identity(self) -> dict[str, Any]:
        """What must be equal for a run to be resumed: everything but where it writes and what watches it."""
        data = self.config.to_dict()
        for key in ("output", "trackers", "observers"):
            del data[key]
        for key in ("save_every", "keep_checkpoints", "evaluate_every", "log_every"):
            del data["training"][key]
        return data

    def _finish(self, steps: int) -> None:
        metrics = self._evaluate(steps)
        self.crosscoder.eval()
        self.crosscoder.info = CheckpointInfo.of_run(
            self.config,
            registry=self.registry,
            models={key: adapter.describe() for key, adapter in self.adapters.items()},
            metrics=attrs.asdict(metrics),
        )
        if self.accelerator.is_main_process:
            self.crosscoder.save_pretrained(self.config.output / "crosscoder")
            (self.config.output / "history.json").write_text(json.dumps(self._history, indent=1))
        self.accelerator.wait_for_everyone()

    # -- data ---------------------------------------------------------------------------------------------------

    def _reader(self, split: Split) -> SequenceReader:
        activations = self.config.activations
        return reader_of(
            self.source,
            self.adapters,
            self.reading,
            context_length=activations.context_length,
            pack=activations.pack,
            split=split,
            held_out_share=activations.held_out_share,
        )

    def _stream(self) -> ActivationStream:
        training = self.config.training
        return ActivationStream(
            self._reader("train"),
            self.harvester,
            self.config.activations,
            batch_size=training.batch_size // training.accumulation,
            seed=training.seed,
            median_norm_S=self._median_norm_S,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
            gather=self.accelerator.gather,
        )

    def _parts(self, batches: Iterator[Tensor], step: int) -> list[Tensor]:
        try:
            with self.accelerator.autocast():
                return [next(batches) for _ in range(self.config.training.accumulation)]
        except TrainingError as error:
            raise TrainingError(f"step {step}: {error}") from error

    def _held_out(self) -> Iterator[Tensor]:
        """This process's share of the held-out activations, one forward pass at a time."""
        activations = self.config.activations
        split: Split = "held_out" if activations.held_out_share else "train"
        reader = self._reader(split)
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        for _ in range(
            -(-self.config.training.evaluation_tokens // activations.context_length // activations.rows_per_forward)
        ):
            rows = reader.read(activations.rows_per_forward)
            mine = rows.rows(
                rank * activations.rows_per_forward // world, (rank + 1) * activations.rows_per_forward // world
            )
            with self.accelerator.autocast():
                x_BTX = self.harvester(mine)
            keep_BT = keep_mask(
                activations.masks, mine.to(self.accelerator.device), self.harvester.norms(x_BTX), self._median_norm_S
            )
            yield x_BTX[keep_BT]

    # -- metrics ------------------------------------------------------------------------------------------------

    def _evaluate(self, step: int) -> Metrics:
        self.crosscoder.gate = self.loss.gate().to(self.accelerator.device)
        metrics = evaluate(
            self.crosscoder, self._held_out(), total=lambda t: self.accelerator.reduce(t, reduction="sum")
        )
        numbers = {"evaluation/l0": metrics.l0, "evaluation/dead_share": metrics.dead_share}
        numbers |= {f"evaluation/explained_variance/{k}": v for k, v in metrics.explained_variance.items()}
        self._log(numbers, step)
        return metrics

    def _start_trackers(self) -> None:
        if self.config.trackers:
            flat = {"config": json.dumps(unstructure(self.config))}
            self.accelerator.init_trackers("crosscoders", config=flat)

    def _log(self, numbers: dict[str, float], step: int) -> None:
        self._history.append({"step": step, **numbers})
        if self.config.trackers:
            self.accelerator.log(numbers, step=step)

    def _show(self, bar: Any, report: StepReport) -> None:
        if report.step % self.config.training.log_every == 0 or report.step == self.config.training.num_steps:
            explained = " ".join(f"{value:.3f}" for value in report.explained_variance.values())
            bar.set_postfix_str(f"EV {explained}, L0 {report.l0:.1f}, dead {report.dead_share:.1%}")
            self._log(report.scalars(), report.step)


def train(
    config: RunConfig, *, resume: bool = True, quiet: bool = False, registry: Registry | None = None
) -> Crosscoder:
    """Run `config` to its end: see `Runner`. With `quiet`, no progress bar."""
    return Runner(config, registry=registry).run(resume=resume, quiet=quiet)
