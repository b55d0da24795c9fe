"""Several runs on the same batches, on all processes: they begin and go on together, or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, ConfigError, CrosscodersError
from ..processes import Processes
from .continuing import OtherRunError
from .lock import locked
from .progress import say
from .run import FINISHED, TrainingRun


@contextmanager
def all_locked(runs: Sequence[TrainingRun], processes: Processes, device: torch.device) -> Iterator[None]:
    """No other command works in the folders of these runs; the first process holds them for all."""
    refused = ConfigError("the first process could not have the run's folder to itself; it says why")
    with ExitStack() as stack:
        with _by_all(processes, device, refused):
            for run in runs if processes.is_main else ():
                stack.enter_context(locked(run.config.output))
        yield


def resume_all(
    runs: Sequence[TrainingRun], processes: Processes, device: torch.device
) -> tuple[dict[str, Any], Tensor] | None:
    """Set the runs to the newest step that all have whole, and may go on from.

    Returns the stream's position there and the median norms. None where there is none to go on from; the error of the
    newest where none of several will do.
    """
    common = set.intersection(*(set(run.saved_steps()) for run in runs))
    errors: list[CheckpointError] = []
    for step in sorted(common, reverse=True):
        unread = CheckpointError(f"the checkpoint of step {step} cannot be read by another process")
        try:
            with _by_all(processes, device, unread):
                found = [run.resume(step) for run in runs]
        except CheckpointError as error:
            errors.append(error)
            continue
        for problem in errors:
            say(str(problem), processes)
        say(f"resuming from step {step}", processes)
        return found[-1]
    if errors:
        if isinstance(errors[0], OtherRunError):
            raise errors[0]
        raise CheckpointError(f"{errors[0]}; no other checkpoint will do, and --fresh (resume=False) starts anew")
    if any((run.config.output / FINISHED).exists() for run in runs):
        say("an earlier run left no checkpoint to go on from (training.save_every): starting anew", processes)
    return None


@contextmanager
def _by_all(processes: Processes, device: torch.device, otherwise: CrosscodersError) -> Iterator[None]:
    """Where this fails on one process, it fails on all; those that had no error of their own raise `otherwise`."""
    problem: CrosscodersError | None = None
    try:
        yield
    except CrosscodersError as error:
        problem = error
    failed = processes.most(torch.tensor(int(problem is not None), device=device))
    if problem:
        raise problem
    if failed:
        raise otherwise
