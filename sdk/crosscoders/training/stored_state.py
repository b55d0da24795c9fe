"""What a run's stored state must hold, compared before any of it is put to use.

Fused optimizers read as many numbers as a parameter has, whatever their state has: a moment of another shape would be
read and written beyond its end.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, listed, shown
from ..reading import checksum, read_json
from .trainer import Trainer

Kind = tuple[tuple[int, ...], torch.dtype]
"""Shape and type of a tensor."""


def sealed(state: Mapping[str, Any]) -> dict[str, Any]:
    """JSON data with its checksum."""
    return {**state, "checksum": checksum(state)}


def read_sealed(path: Path, error: type[CheckpointError]) -> dict[str, Any]:
    """The data of a file that `sealed` has made; an error where a byte of it has changed."""
    try:
        state = read_json(path, error)
    except FileNotFoundError:
        raise error(f"there is no {path}") from None
    if not isinstance(state, dict):
        raise error(f"{path} should hold a table, not {shown(state)}")
    expected = state.pop("checksum", None)
    if checksum(state) != expected:
        raise error(f"{path} is damaged: it does not have the checksum that it names")
    return state


def check_table(state: Mapping[str, Any], path: Path) -> None:
    """`CheckpointError` where `state.json` lacks what a run goes on from."""
    position = state.get("position")
    kinds = (("config", state.get("config"), dict), ("position", position, dict), ("step", state.get("step"), int))
    if isinstance(position, dict):
        kinds += (("stream", position.get("stream"), dict), ("history", position.get("history"), list))  # type: ignore[assignment]
    for key, value, kind in kinds:
        if type(value) is not kind or (key == "step" and path.name != f"step-{value:08d}"):
            raise CheckpointError(f"the checkpoint {path} should have a {kind.__name__} at '{key}', not {shown(value)}")
    if any(not isinstance(line, dict) for line in state["position"]["history"]):
        raise CheckpointError(f"the checkpoint {path} has a history that is not a list of tables")


def check_state(tensors: Mapping[str, Tensor], trainer: Trainer, path: Path) -> None:
    """Compare names, shapes and types of a state's tensors with what `trainer` would save now."""
    expected = _expected(trainer)
    there = {key: (tuple(value.shape), value.dtype) for key, value in tensors.items() if _is_checked(key, trainer)}
    problems = [f"no tensor '{key}'" for key in sorted(expected.keys() - there.keys())]
    problems += [f"an unknown tensor '{key}'" for key in sorted(there.keys() - expected.keys())]
    problems += [
        f"'{key}' of {_named(there[key])} instead of {_named(kind)}"
        for key, kind in expected.items()
        if key in there and there[key] != kind
    ]
    if not problems and trainer.config.optimizer == "adam_8bit":
        problems = _eight_bit_problems(tensors, trainer)
    if not problems:
        try:
            torch.Generator().set_state(tensors["rng.cpu"])
        except RuntimeError as error:
            problems = [f"'rng.cpu' that is not a random state ({str(error).partition(chr(10))[0]})"]
    if problems:
        raise CheckpointError(f"the checkpoint {path} is not of this run: it has {listed(problems)}")


def _expected(trainer: Trainer) -> dict[str, Kind]:
    kinds = {f"crosscoder.{k}": _kind(v) for k, v in trainer.crosscoder.state_dict().items() if k[:5] != "gate."}
    kinds |= {f"loss.{k}": _kind(v) for k, v in trainer.loss.state_dict().items()}
    for index, parameter in enumerate(trainer.parameters):
        if parameter.requires_grad:
            moments = _moments(parameter, trainer.config.optimizer)
            kinds |= {f"optimizer.{index}.{key}": kind for key, kind in moments.items()}
    kinds["tokens_since_fired_F"] = _kind(trainer.tokens_since_fired_F)
    kinds["rng.cpu"] = _kind(torch.get_rng_state())
    kinds["extra.median_norm_S"] = ((len(trainer.crosscoder.sites),), torch.float32)
    return kinds


def _moments(parameter: nn.Parameter, optimizer: str) -> dict[str, Kind]:
    shape, dtype = tuple(parameter.shape), parameter.dtype
    kinds: dict[str, Kind] = {"step": ((), torch.float32)}
    if optimizer == "adam":
        return kinds | {"exp_avg": (shape, dtype), "exp_avg_sq": (shape, dtype)}
    if optimizer == "adafactor" and len(shape) > 1:
        rows, columns = (*shape[:-1], 1), (*shape[:-2], 1, shape[-1])
        return kinds | {"row_var": (rows, dtype), "col_var": (columns, dtype)}
    if optimizer == "adafactor":
        return kinds | {"variance": (shape, dtype)}
    return {}


def _eight_bit_problems(tensors: Mapping[str, Tensor], trainer: Trainer) -> list[str]:
    """Of bitsandbytes' states, which differ between its versions: what its kernels read by the parameter's size."""
    problems = []
    for index, parameter in enumerate(trainer.parameters):
        for key, value in tensors.items():
            if key.startswith(f"optimizer.{index}."):
                name, count = key.rpartition(".")[2], parameter.numel()
                blocks = {-(-count // size) for size in (256, 2048)}
                sizes = {"s": {count, 1}, "q": {256}, "a": blocks, "m": {1}}.get(name[:1], {1})
                if value.numel() not in sizes:
                    problems.append(f"'{key}' of {_named(_kind(value))}")
    return problems


def _is_checked(key: str, trainer: Trainer) -> bool:
    """The GPU's random state is of no use elsewhere, and bitsandbytes' states are compared by themselves."""
    return key != "rng.cuda" and not (key.startswith("optimizer.") and trainer.config.optimizer == "adam_8bit")


def _kind(tensor: Tensor) -> Kind:
    return tuple(tensor.shape), tensor.dtype


def _named(kind: Kind) -> str:
    return f"shape {kind[0]} in {str(kind[1]).removeprefix('torch.')}"
