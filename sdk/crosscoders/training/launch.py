"""What a run needs of accelerate: a device, its place among the processes, and trackers."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext
from difflib import get_close_matches
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import LoggerType

from ..errors import ConfigError
from ..plugins.choices import unstructure
from ..privacy.local import published
from .config import RunConfig, TrainingConfig

PACKAGES = {"comet_ml": "comet-ml"}
"""Distributions of trackers that are not called as the trackers are."""
EXTRA = ("tensorboard", "trackio", "wandb")
"""Trackers that come with `crosscoders[trackers]`."""


def accelerator_of(config: RunConfig) -> Accelerator:
    """An accelerator for a run. `ConfigError` where a tracker cannot be had."""
    check_trackers(config.trackers)
    if torch.cuda.is_available() and config.device != "cpu":
        torch.set_float32_matmul_precision(config.training.float32_precision)
    _forget_other_device(on_cpu=config.device == "cpu")
    # accelerate keeps one precision for the whole process, which an earlier run or a notebook may have chosen: runs
    # have theirs by `autocast` below, and take whatever state there is.
    return Accelerator(
        cpu=config.device == "cpu",
        mixed_precision=None if AcceleratorState._shared_state else "no",
        log_with=list(config.trackers) or None,
        project_dir=str(config.output),
    )


def autocast(config: TrainingConfig, device: torch.device) -> AbstractContextManager[Any]:
    """The precision of a run's products."""
    return torch.autocast(device.type, torch.bfloat16) if config.mixed_precision == "bf16" else nullcontext()


def check_trackers(names: tuple[str, ...]) -> None:
    """`ConfigError` where accelerate does not know a tracker, or its package is not installed."""
    available = {str(name) for name in get_available_trackers()}
    for name in names:
        if name == "all" or name in available:
            continue
        if name not in LOGGER_TYPE_TO_CLASS:
            near = get_close_matches(name, LOGGER_TYPE_TO_CLASS, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise ConfigError(f"trackers: there is none called '{name}'; there are {_listed()}{hint}")
        if name in LoggerType.list():
            extra = ", which is in the extra crosscoders[trackers]" if name in EXTRA else ""
            raise ConfigError(
                f"trackers: '{name}' needs the package {PACKAGES.get(name, name)}{extra}, and it is not installed"
            )


def start_trackers(accelerator: Accelerator, config: RunConfig) -> None:
    """Begin a run in every tracker; `ConfigError` where one refuses, for want of an account for instance."""
    if not config.trackers:
        return
    # Trackers publish: what they are told has no local paths.
    told, _ = published(unstructure(config), {})
    try:
        accelerator.init_trackers("crosscoders", config={"config": json.dumps(told)})
    except Exception as error:
        raise ConfigError(
            f"trackers: {', '.join(config.trackers)} cannot begin: {type(error).__name__}: {error}"
        ) from error


def _listed() -> str:
    return ", ".join(sorted(map(str, LOGGER_TYPE_TO_CLASS)))


def _forget_other_device(*, on_cpu: bool) -> None:
    """Let a process that has trained on a CPU train on a GPU next, or the other way round."""
    known = PartialState._shared_state
    if known and known.get("num_processes", 1) == 1 and bool(known.get("_cpu")) != on_cpu:
        AcceleratorState._reset_state(reset_partial_state=True)
