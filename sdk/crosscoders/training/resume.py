"""Checkpoints of unfinished runs: safetensors and JSON, written atomically, restored bit for bit."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.tensors import StoredTensors, save_tensors, shared_folder
from ..errors import CheckpointError
from ..files import first_difference
from .trainer import Trainer

FORMAT = 1


def save_state(
    folder: Path,
    trainer: Trainer,
    *,
    config: dict[str, Any],
    position: dict[str, Any],
    keep: int,
    extra: dict[str, Tensor],
) -> Path:
    """Write `step-N` into `folder` and remove all but the newest `keep`. Every shard of one replica must call this."""
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
            (partial / "state.json").write_text(json.dumps(state, indent=1))
    if trainer.processes.shard == 0:
        for old in _checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    return target


def latest_state(folder: Path) -> Path | None:
    """The newest checkpoint in `folder`, or None."""
    return next(reversed(_checkpoints(folder)), None)


def load_state(path: Path, trainer: Trainer, *, config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Restore `trainer`; returns the saved position and the extra tensors.

    `CheckpointError` if the checkpoint belongs to another config; it names the first key that differs.
    """
    try:
        state = json.loads((path / "state.json").read_text())
        processes, groups = trainer.processes, trainer.crosscoder.wiring.groups
        sizes = [group.num_latents * processes.num_shards for group in groups]
        stored = StoredTensors.open(path, "state")
        tensors = stored.read(sizes, processes.shard, processes.num_shards, sharding=_sharding(trainer))
    except (OSError, json.JSONDecodeError, CheckpointError) as error:
        raise CheckpointError(f"the checkpoint {path} cannot be read: {error}") from error
    if state.get("format") != FORMAT:
        raise CheckpointError(f"the checkpoint {path} has format {state.get('format')}; this version reads {FORMAT}")
    difference = first_difference(state["config"], config)
    if difference:
        raise CheckpointError(
            f"the checkpoint {path} belongs to another run: {difference}; choose another output folder"
        )
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
    return state["position"], _part(tensors, "extra.")


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


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
