"""The runner: trains one crosscoder from a config, or several from several configs, on one process or many."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from torch import Tensor
from tqdm.auto import tqdm

from ..activations import ActivationSource, ActivationStream, CachedActivations, LiveActivations, watched
from ..crosscoder.module import Crosscoder
from ..devices import memory_errors
from ..errors import TrainingError, TrainingStopped
from ..models.adapter import ModelAdapter
from ..plugins.registry import Registry, get_registry
from ..processes import Processes
from .config import RunConfig
from .fidelity import losses_on
from .harvesting import live_activations
from .launch import accelerator_of, start_trackers
from .lock import refuse_if_locked
from .progress import reading_note, say, summary
from .run import TrainingRun
from .stopping import BY_OBSERVER, StopRequest
from .together import all_locked, resume_all

ADVICE = (
    "take a smaller training.batch_size, activations.block_tokens or activations.rows_per_forward, or fewer latents"
)
"""What helps a run for which there is not enough memory."""


class Runner:
    """Trains one crosscoder, or several on the same batches.

    `run()` also evaluates each and saves it to `output / "crosscoder"` of its config. Several configs must harvest the
    same activations in the same order; `sweep` makes such configs.
    """

    def __init__(
        self,
        config: RunConfig,
        *others: RunConfig,
        models: Mapping[str, ModelAdapter] | None = None,
        registry: Registry | None = None,
    ) -> None:
        self.config = config
        self.registry = registry or get_registry()
        self.quiet = False
        self._median_norm_S: Tensor | None = None
        self._reading: dict[str, Any] = {}
        self.accelerator = accelerator_of(config)
        for each in (config, *others):
            refuse_if_locked(each.output)
        self.processes = Processes.connect(
            self.accelerator.process_index, self.accelerator.num_processes, num_shards=config.training.shards
        )
        self.source: ActivationSource = self._source(models)
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
        """Train to the end; returns the first crosscoder. With `quiet`, no progress bar.

        With `resume`, go on from the newest whole checkpoint that all have, if there is one; what is finished already
        is not trained again. At SIGINT, SIGTERM or SIGHUP the step is finished, a checkpoint written, and
        `TrainingStopped` raised; what fails after the last step finds the crosscoders saved.
        """
        self.quiet = quiet or not self.processes.is_main
        with all_locked(self.runs, self.processes, self.accelerator.device), memory_errors("this run", ADVICE):
            earlier = [run.finished() for run in self.runs] if resume else []
            finished = [found for found in earlier if found is not None]
            if len(finished) == len(self.runs):
                for run, (crosscoder, _) in zip(self.runs, finished, strict=True):
                    run.adopt(crosscoder)
                if all(evaluated for _, evaluated in finished):
                    outputs = ", ".join(str(run.config.output) for run in self.runs)
                    stopped = self.runs[0].recorded_reading.get("stopped")
                    end = f" ({stopped})" if stopped else f", at step {self.config.training.num_steps}"
                    say(f"{outputs}: finished already{end}", self.processes)
                    return self.crosscoder
            try:
                if len(finished) < len(self.runs):
                    self._train(resume)
                for run in self.runs:
                    reading = self._reading or run.recorded_reading
                    if not self._reading:
                        run.observers.run_start(self.config.training.num_steps, run.crosscoder)
                    run.conclude(self.source.models, reading, self._held_out(), self._spliced)
            except BaseException as error:
                for run in self.runs:
                    run.observers.failure(error)
                raise
            finally:
                # `end_training` would also destroy the process group, and no second run could follow.
                for tracker in self.accelerator.trackers:
                    with suppress(Exception):
                        tracker.finish()
            if self._reading and (note := reading_note(self._reading)) and not self.quiet:
                say(note, self.processes)
        return self.crosscoder

    def _train(self, resume: bool) -> None:
        """To the end, and write what came of it."""
        training = self.config.training
        stream = self._stream(resume)
        start_trackers(self.accelerator, self.config)
        step = self.runs[0].trainer.step_number
        for run in self.runs:
            run.observers.run_start(step, run.crosscoder)
        batches = iter(stream)
        if self.config.activations.pack is True and self.source.packing == "single" and not self.quiet:
            say(
                "Documents have rows of their own: not every model reads several in one row each by itself.",
                self.processes,
            )
        try:
            first, saved, ended = self._first_batch(batches, step), step, dict[str, str]()
            with self._bar("training", step) as bar, StopRequest() as stop:
                while step < training.num_steps:
                    micro_batches = first or self._micro_batches(batches, step)
                    first = []
                    reports = [run.step(micro_batches) for run in self.runs]
                    step += 1
                    bar.update(training.batch_size)
                    if step % training.log_every == 0 or step == training.num_steps:
                        bar.set_postfix_str(summary(reports, stream.read_so_far))
                    if training.evaluate_every and step % training.evaluate_every == 0 and step < training.num_steps:
                        for run in self.runs:
                            run.evaluate(self._held_out())
                    reasons = [run.observers.stopped for run in self.runs if run.observers.stopped]
                    wish = stop.agreed(self.processes, self.accelerator.device, asked=bool(reasons))
                    if wish or (training.save_every and step % training.save_every == 0):
                        self._save(stream)
                        saved = step
                    if wish > 0 and step < training.num_steps:
                        raise TrainingStopped(step, wish)
                    if wish == BY_OBSERVER and step < training.num_steps:
                        by = reasons[0] if reasons else "an observer in another process"
                        ended = {"stopped": f"stopped at step {step} of {training.num_steps} by {by}"}
                        say(ended["stopped"], self.processes)
                        break
            self._reading = {"packing": self.source.packing, **stream.read_so_far, **ended}
            for run in self.runs:
                run.set_gate()
                run.write(self.source.models, self._reading)
            if training.save_every and saved < step:
                # So that a run of more tokens can go on from the end of this one.
                self._save(stream)
            for run in self.runs:
                # Where the last save was killed before it could do so.
                run.prune()
        finally:
            stream.close()

    def _save(self, stream: ActivationStream) -> None:
        for run in self.runs:
            run.save(stream.state(), self._medians())
        # Old ones go once all have the new one: at every moment there is a step that all have.
        for run in self.runs:
            run.prune()

    def _micro_batches(self, batches: Iterator[Tensor], step: int) -> list[Tensor]:
        try:
            return [next(batches) for _ in range(self.config.training.accumulation)]
        except TrainingError as error:
            raise TrainingError(f"step {step}: {error}") from error

    def _first_batch(self, batches: Iterator[Tensor], step: int) -> list[Tensor]:
        """The first step's, for which a whole block is harvested: with a bar of its own, so that rates are of steps."""
        if step == self.config.training.num_steps:
            return []
        tokens = self.config.activations.block_tokens // self.processes.world
        with watched(self.source, "first block", tokens, quiet=self.quiet):
            return self._micro_batches(batches, step)

    def _bar(self, what: str, step: int) -> tqdm[Any]:
        training = self.config.training
        return tqdm(
            total=training.num_steps * training.batch_size,
            initial=step * training.batch_size,
            unit="tok",
            unit_scale=True,
            disable=self.quiet,
            desc=what,
        )

    def _source(self, models: Mapping[str, ModelAdapter] | None) -> ActivationSource:
        if self.config.cache is not None:
            return CachedActivations(self.config.cache, self.config.harvest, processes=self.processes)
        return live_activations(self.config, self.registry, self.accelerator.device, self.processes, models)

    def _stream(self, resume: bool) -> ActivationStream:
        """The stream at the position where training goes on, with the runs set to the same one."""
        position = None
        if resume and (found := resume_all(self.runs, self.processes, self.accelerator.device)):
            position, self._median_norm_S = found
        if position is None:
            self._start()
        for run in self.runs:
            run.begin()
        training = self.config.training
        blocks = self.source.blocks(self._medians())
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

    def _medians(self) -> Tensor:
        """Median norms at each site, which masks go by: found by calibration, or read from a checkpoint."""
        if self._median_norm_S is None:
            self._median_norm_S = self.source.calibrate().median_norm_S
        return self._median_norm_S

    def _start(self) -> None:
        """Set the runs to step 0, by what the first tokens show."""
        tokens = self.config.activations.calibration_tokens // self.processes.world
        with watched(self.source, "calibrating", tokens, quiet=self.quiet):
            calibration = self.source.calibrate()
        self._median_norm_S = calibration.median_norm_S
        for run in self.runs:
            run.start(calibration)

    def _spliced(self, crosscoder: Crosscoder) -> dict[str, dict[str, float]]:
        """What the models lose with the reconstruction in the place of their activations; empty where none runs."""
        tokens = self.config.training.fidelity_tokens
        if not tokens or not isinstance(self.source, LiveActivations) or self.processes.num_shards > 1:
            return {}
        return losses_on(crosscoder, self.source.adapters, list(self.source.held_out_rows(self._medians(), tokens)))

    def _held_out(self) -> Iterator[Tensor]:
        for x_BX in self.source.held_out(self._medians(), self.config.training.evaluation_tokens):
            yield self.processes.gather_rows(x_BX.to(self.accelerator.device))


def train(
    config: RunConfig,
    *,
    models: Mapping[str, ModelAdapter] | None = None,
    resume: bool = True,
    quiet: bool = False,
    registry: Registry | None = None,
) -> Crosscoder:
    """Train the crosscoder of `config` and return it; see `Runner`. `quiet` hides the progress bar.

    `models` are adapters by key, of models that are in memory; they take the place of those that the config names.
    """
    return Runner(config, models=models, registry=registry).run(resume=resume, quiet=quiet)
