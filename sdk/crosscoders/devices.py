"""Devices by name, and sums in double precision where a device has none.

Apple's GPUs have no float64. What is summed there in double precision moves to the CPU first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .errors import ConfigError, NotEnoughMemoryError


def find_device(name: str = "auto", *, option: str = "device") -> torch.device:
    """The device called `name`; `auto` and the empty name are this machine's accelerator, or else its CPU.

    `ConfigError` for one that is not there, which names `option`.
    """
    if name in ("", "auto"):
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return found or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    # Each kind of device has its own exceptions for "not built in", "no driver" and "no such number".
    except Exception as error:
        raise ConfigError(f"{option} is '{name}', which this machine does not have; it has {_there()}") from error
    if device.type == "meta":
        raise ConfigError(f"{option} is 'meta', where there is no memory; this machine has {_there()}")
    return device


@contextmanager
def memory_errors(what: str, advice: str) -> Iterator[None]:
    """Where torch finds no memory, `NotEnoughMemoryError` says what was to fit and what would help."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch has a class of its own for accelerators, and none for CPUs
        text = str(error)
        if isinstance(error, NotEnoughMemoryError) or not (
            isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in text
        ):
            raise
        wanted = re.search(r"allocate ([\d.]+ ?\w+)", text)
        amount = f", which asked for {wanted[1]} more" if wanted else ""
        raise NotEnoughMemoryError(f"there is not enough memory for {what}{amount}; {advice}") from error


def _there() -> str:
    names = ["cpu"]
    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator()
        names += [f"{kind}:{number}" for number in range(torch.accelerator.device_count())]
    return ", ".join(names)


def has_float64(device: torch.device) -> bool:
    """Whether tensors of double precision can live on `device`; asked by making one."""
    try:
        torch.empty(1, dtype=torch.float64, device=device)
    except (TypeError, RuntimeError):
        return False
    return True


def accumulator(device: torch.device) -> dict[str, Any]:
    """Where and in which type sums over values on `device` are kept, as arguments of `torch.zeros` and `Tensor.to`.

    Double precision on the device itself, else on the CPU, else single precision where it is.
    """
    for place in (device, torch.device("cpu")):
        if has_float64(place):
            return {"device": place, "dtype": torch.float64}
    return {"device": device, "dtype": torch.float32}


def precise(values: Tensor) -> Tensor:
    """The values as they are to be summed: see `accumulator`."""
    kept = accumulator(values.device)
    # To the other device first: the type may not exist on this one.
    return values.to(kept["device"]).to(kept["dtype"])
