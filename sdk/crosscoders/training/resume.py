"""Checkpoints of unfinished runs: safetensors and JSON, written atomically, restored bit for bit."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.tensors import StoredTensors, save_tensors, shared_folder
from ..errors import CheckpointError
from ..files import disk_errors, partial_path
from ..privacy.configs import recorded_like
from .continuing import OtherRunError, check_same_run
from .stored_state import check_state, check_table, read_sealed, sealed
from .trainer import Trainer

FORMAT = 3


def save_state(
    folder: Path,
    trainer: Trainer,
    *,
    config: dict[str, Any],
    position: dict[str, Any],
    extra: dict[str, Tensor],
) -> Path:
    """Write `step-N` into `folder`; `config` is as files have it (`recorded`). The shards of one replica call this."""
    tensors = {f"extra.{name}": tensor for name, tensor in extra.items()}
    # The gate is not saved: it follows from the loss, and which gate is set now depends on earlier evaluations.
    weights = {k: v for k, v in trainer.crosscoder.state_dict().items() if not k.startswith("gate.")}
    tensors |= {f"crosscoder.{k}": v for k, v in weights.items()}
    tensors |= {f"loss.{k}": v for k, v in trainer.loss.state_dict().items()}
    for index, parameter in enumerate(trainer.parameters):
        for key, value in trainer.optimizer.state[parameter].items():
            tensors[f"optimizer.{index}.{key}"] = torch.as_tensor(value)
    tensors["tokens_since_fired_F"] = trainer.tokens_since_fired_F
    tensors["rng.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["rng.cuda"] = torch.cuda.get_rng_state()
    target = folder / f"step-{trainer.step_number:08d}"
    with shared_folder(target, trainer.processes) as partial:
        save_tensors(partial, "state", tensors, _sharding(trainer), trainer.processes)
        if trainer.processes.shard == 0:
            state = {"format": FORMAT, "step": trainer.step_number, "config": config, "position": position}
            # Sealed as it will be read: with lists for tuples.
            plain = sealed(json.loads(json.dumps(state)))
            (partial / "state.json").write_text(json.dumps(plain, indent=1), encoding="utf-8")
    return target


def prune(folder: Path, course: Callable[[int], bool], *, keep: int) -> None:
    """Remove all checkpoints but the newest `keep` of those whose step is on this `course`: others were left behind."""
    with disk_errors(folder):
        mine = [path for path in _checkpoints(folder) if course(_step(path))]
        for path in set(_checkpoints(folder)) - set(mine[-keep:]):
            # A name that no resume looks for, so that a kill in between leaves no checkpoint that is half there.
            aside = partial_path(path)
            path.rename(aside)
            shutil.rmtree(aside)


def latest_state(folder: Path) -> Path | None:
    """The newest checkpoint in `folder`, or None."""
    return next(reversed(_checkpoints(folder)), None)


def saved_steps(folder: Path) -> list[int]:
    """The steps of the checkpoints, newest first."""
    return [_step(path) for path in reversed(_checkpoints(folder))]


def load_state(
    path: Path, trainer: Trainer, *, config: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
    """Put `trainer` where it was; returns the position it was saved with, the extra tensors, and the config then.

    `OtherRunError` when the checkpoint is of another config, naming the first key that differs; any other
    `CheckpointError` when it is damaged.
    """
    try:
        state = read_sealed(path / "state.json", CheckpointError)
        processes, groups = trainer.processes, trainer.crosscoder.wiring.groups
        sizes = [group.num_latents * processes.num_shards for group in groups]
        stored = StoredTensors.open(path, "state")
        tensors = stored.read(sizes, processes.shard, processes.num_shards, sharding=_sharding(trainer))
    except (OSError, CheckpointError) as error:
        raise CheckpointError(f"the checkpoint {path} cannot be read: {error}") from error
    if state.get("format") != FORMAT:
        raise OtherRunError(f"the checkpoint {path} has format {state.get('format')}; this version reads {FORMAT}")
    check_table(state, path)
    check_same_run(f"the checkpoint {path}", state["config"], recorded_like(state["config"], config), state["step"])
    check_state(tensors, trainer, path)
    trainer.crosscoder.load_state_dict(_part(tensors, "crosscoder."))
    trainer.loss.load_state_dict(_part(tensors, "loss."))
    for index, parameter in enumerate(trainer.parameters):
        entries = _part(tensors, f"optimizer.{index}.")
        trainer.optimizer.state[parameter] = {
            # Some optimizers count steps with a plain integer, which was saved as an integer tensor.
            key: int(value) if value.dim() == 0 and not value.is_floating_point() else value.to(parameter.device)
            for key, value in entries.items()
        }
    trainer.tokens_since_fired_F.copy_(tensors["tokens_since_fired_F"])
    trainer.step_number = state["step"]
    torch.set_rng_state(tensors["rng.cpu"])
    if "rng.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["rng.cuda"])
    return state["position"], _part(tensors, "extra."), state["config"]


def _sharding(trainer: Trainer) -> dict[str, str]:
    """How processes split each tensor of a state that has a row for each latent: see `checkpoints.tensors`."""
    kinds = {f"crosscoder.{name}": kind for name, kind in trainer.crosscoder.sharding.items()}
    count = trainer.crosscoder.num_latents
    kinds |= {f"loss.{k}": "latents" for k, v in trainer.loss.state_dict().items() if v.dim() == 1 and len(v) == count}
    names = {id(parameter): name for name, parameter in trainer.crosscoder.named_parameters()}
    names |= {id(parameter): f"loss.{name}" for name, parameter in trainer.loss.named_parameters()}
    for index, parameter in enumerate(trainer.parameters):
        name = names[id(parameter)]
        kind = kinds.get(name if name.startswith("loss.") else f"crosscoder.{name}")
        if kind:
            # Sharded runs use Adam only, so its moments are all there is to shard.
            kinds |= {f"optimizer.{index}.{key}": kind for key in ("exp_avg", "exp_avg_sq")}
    return {**kinds, "tokens_since_fired_F": "latents"}


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if re.fullmatch(r"step-\d{8}", path.name))


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
