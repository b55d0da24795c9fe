"""The runner: trains one crosscoder from a config, or several from several configs, on one process or many."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm

from ..activations import ActivationSource, ActivationStream, CachedActivations, LiveActivations, write_cache
from ..checkpoints.local import published
from ..crosscoder.module import Crosscoder
from ..devices import find_device
from ..errors import TrainingError
from ..plugins.choices import unstructure
from ..plugins.registry import Registry, get_registry
from ..processes import Processes
from .config import RunConfig
from .progress import StepReport
from .run import TrainingRun


class Runner:
    """Trains one crosscoder, or several on the same batches.

    `run()` also evaluates each and saves it to `output / "crosscoder"` of its config. Several configs must harvest the
    same activations in the same order; `sweep` makes such configs.
    """

    def __init__(self, config: RunConfig, *others: RunConfig, registry: Registry | None = None) -> None:
        self.config = config
        self.registry = registry or get_registry()
        self.accelerator = _accelerator(config)
        self.processes = Processes.connect(
            self.accelerator.process_index, self.accelerator.num_processes, num_shards=config.training.shards
        )
        self.source: ActivationSource = self._source()
        self.runs = [
            TrainingRun(
                each,
                self.source.layout,
                self.accelerator,
                self.processes,
                self.registry,
                prefix=f"{each.output.name}/" if others else "",
            )
            for each in (config, *others)
        ]

    @property
    def crosscoder(self) -> Crosscoder:
        """The crosscoder of the first config."""
        return self.runs[0].crosscoder

    def run(self, *, resume: bool = True, quiet: bool = False) -> Crosscoder:
        """Train to the end; returns the first crosscoder.

        With `resume`, continue from the newest checkpoint that all configs have, if there is one.
        """
        training = self.config.training
        stream = self._stream(resume)
        if self.config.trackers:
            # Trackers publish: what they are told has no local paths.
            config, _ = published(unstructure(self.config), {})
            self.accelerator.init_trackers("crosscoders", config={"config": json.dumps(config)})
        step = self.runs[0].trainer.step_number
        bar = tqdm(
            total=training.num_steps * training.batch_size,
            initial=step * training.batch_size,
            unit="tok",
            unit_scale=True,
            disable=quiet or not self.processes.is_main,
            desc="training",
        )
        if self.config.activations.pack is True and self.source.packing == "single" and not bar.disable:
            tqdm.write("Documents have rows of their own: not every model reads several in one row each by itself.")
        batches = iter(stream)
        try:
            while step < training.num_steps:
                try:
                    micro_batches = [next(batches) for _ in range(training.accumulation)]
                except TrainingError as error:
                    raise TrainingError(f"step {step}: {error}") from error
                reports = [run.step(micro_batches) for run in self.runs]
                step += 1
                bar.update(training.batch_size)
                if step % training.log_every == 0 or step == training.num_steps:
                    bar.set_postfix_str(_summary(reports, stream.read_so_far))
                if training.evaluate_every and step % training.evaluate_every == 0:
                    for run in self.runs:
                        run.evaluate(self._held_out())
                if training.save_every and step % training.save_every == 0:
                    for run in self.runs:
                        run.save(stream.state(), self._median_norm_S)
        finally:
            stream.close()
            bar.close()
        for run in self.runs:
            run.finish(self.source.models, self._held_out(), {"packing": self.source.packing, **stream.read_so_far})
        if not quiet and self.processes.is_main and (note := _reading_note(stream.read_so_far)):
            tqdm.write(note)
        # `end_training` would also destroy the process group, and no second run could follow.
        for tracker in self.accelerator.trackers:
            tracker.finish()
        return self.crosscoder

    def _source(self) -> ActivationSource:
        if self.config.cache is not None:
            return CachedActivations(self.config.cache, self.config.harvest, processes=self.processes)
        return _live(self.config, self.registry, self.accelerator, self.processes)

    def _stream(self, resume: bool) -> ActivationStream:
        """The stream at the position where training continues, with the runs restored to the same step."""
        steps = [run.latest() for run in self.runs] if resume else []
        saved = [step for step in steps if step is not None]
        position: dict[str, Any] | None = None
        if saved and len(saved) == len(self.runs):
            for run in self.runs:
                position, self._median_norm_S = run.resume(min(saved))
        else:
            calibration = self.source.calibrate()
            self._median_norm_S = calibration.median_norm_S
            for run in self.runs:
                run.start(calibration)
        training = self.config.training
        blocks = self.source.blocks(self._median_norm_S)
        wanted = self.config.activations.prefetch
        free = isinstance(self.source, CachedActivations) or blocks.device.type != "cpu"
        stream = ActivationStream(
            blocks,
            batch_size=training.batch_size // training.accumulation,
            seed=training.seed if self.config.activations.seed is None else self.config.activations.seed,
            prefetch=wanted == "on" or (wanted == "auto" and free),
            num_batches=training.num_steps * training.accumulation,
        )
        if position is not None:
            stream.restore(position)
        return stream

    def _held_out(self) -> Iterator[Tensor]:
        for x_BX in self.source.held_out(self._median_norm_S, self.config.training.evaluation_tokens):
            yield self.processes.gather_rows(x_BX.to(self.accelerator.device))


def _summary(reports: Sequence[StepReport], read: Mapping[str, int]) -> str:
    """The numbers of the progress bar: those of one crosscoder, or the range of several."""
    counts = [f"{read[key]} {what}" for key, what in (("passes", "passes"), ("skipped", "rows skipped")) if read[key]]
    values = [value for report in reports for value in report.explained_variance.values()]
    if len(reports) > 1:
        return f"{len(reports)} crosscoders, EV {', '.join([f'{min(values):.3f} to {max(values):.3f}', *counts])}"
    explained = " ".join(f"{value:.3f}" for value in values)
    return ", ".join([f"EV {explained}, L0 {reports[0].l0:.1f}, dead {reports[0].dead_share:.1%}", *counts])


def _reading_note(read: Mapping[str, int]) -> str:
    """What should be known of the tokens that a run was trained on."""
    notes = []
    if read["passes"]:
        notes.append(
            f"the token source came to its end {read['passes']} times and was read again: give it more text, and every "
            "token is a new one"
        )
    if read["skipped"]:
        notes.append(f"{read['skipped']} bad rows were skipped")
    return "; ".join(notes)


def train(
    config: RunConfig, *, resume: bool = True, quiet: bool = False, registry: Registry | None = None
) -> Crosscoder:
    """Train the crosscoder of `config` and return it; see `Runner`. `quiet` hides the progress bar."""
    return Runner(config, registry=registry).run(resume=resume, quiet=quiet)


def harvest(
    config: RunConfig, folder: str | Path, *, num_tokens: int = 0, quiet: bool = False, registry: Registry | None = None
) -> None:
    """Write the activations that `config` trains on (or those of `num_tokens` tokens) into `folder`.

    A run whose `cache` is this folder then needs no models. Under `accelerate launch`, the processes divide the work.
    An interrupted harvest resumes when called again.
    """
    accelerator = _accelerator(config)
    processes = Processes.connect(accelerator.process_index, accelerator.num_processes)
    live = _live(config, registry or get_registry(), accelerator, processes)
    write_cache(
        Path(folder),
        config.harvest,
        live,
        num_tokens=num_tokens or config.training.num_steps * config.training.batch_size,
        evaluation_tokens=config.training.evaluation_tokens,
        processes=processes,
        quiet=quiet,
    )


def _accelerator(config: RunConfig) -> Accelerator:
    if torch.cuda.is_available() and config.device != "cpu":
        torch.set_float32_matmul_precision(config.training.float32_precision)
    return Accelerator(
        cpu=config.device == "cpu",
        mixed_precision=config.training.mixed_precision,
        log_with=list(config.trackers) or None,
        project_dir=str(config.output),
    )


def _live(config: RunConfig, registry: Registry, accelerator: Accelerator, processes: Processes) -> LiveActivations:
    device = find_device(config.models_device or str(accelerator.device), option="models_device")
    return LiveActivations(config.harvest, registry, device, processes=processes, autocast=accelerator.autocast)
