"""Harvesting for a run: the models of its config, for training or for a cache."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path

import attrs
import torch

from ..activations import LiveActivations, write_cache
from ..devices import find_device
from ..files import disk_errors
from ..plugins.registry import Registry, get_registry
from ..processes import Processes
from .config import RunConfig
from .launch import accelerator_of, autocast
from .lock import locked, refuse_if_locked


def harvest(
    config: RunConfig, folder: str | Path, *, num_tokens: int = 0, quiet: bool = False, registry: Registry | None = None
) -> None:
    """Write the activations that `config` trains on (or of `num_tokens` tokens) into `folder`, for `config.cache`.

    Run under `accelerate launch`, the processes share the work. Called again, it goes on where it was stopped.
    """
    folder = Path(folder)
    refuse_if_locked(folder)
    accelerator = accelerator_of(attrs.evolve(config, trackers=()))
    processes = Processes.connect(accelerator.process_index, accelerator.num_processes)
    live = live_activations(config, registry or get_registry(), accelerator.device, processes)
    with locked(folder) if processes.is_main else nullcontext(), disk_errors(folder):
        write_cache(
            folder,
            config.harvest,
            live,
            num_tokens=num_tokens or config.training.num_steps * config.training.batch_size,
            evaluation_tokens=config.training.evaluation_tokens,
            processes=processes,
            quiet=quiet,
        )


def live_activations(
    config: RunConfig, registry: Registry, device: torch.device, processes: Processes
) -> LiveActivations:
    """The models of a run, on `device` or where its config wants them."""
    device = find_device(config.models_device or str(device), option="models_device")
    precision = partial(autocast, config.training, device)
    return LiveActivations(config.harvest, registry, device, processes=processes, autocast=precision)
