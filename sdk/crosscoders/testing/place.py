"""The device that the suites compute on: the CPU, or what `CROSSCODERS_TEST_DEVICE` names, such as `cuda`."""

from __future__ import annotations

import os
from functools import cache

import torch

from ..devices import find_device

VARIABLE = "CROSSCODERS_TEST_DEVICE"


@cache
def device() -> torch.device:
    """Where suites and fixtures put crosscoders, losses and batches. `ConfigError` for a device that is not there."""
    return find_device(os.environ.get(VARIABLE) or "cpu", option=VARIABLE)
