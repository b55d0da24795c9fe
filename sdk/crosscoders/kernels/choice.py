"""Which implementation a tensor's operations run in: Triton kernels on GPUs, plain PyTorch elsewhere."""

from __future__ import annotations

import os
from functools import cache
from typing import Protocol

from torch import Tensor

from ..errors import ConfigError
from . import reference


class Operations(Protocol):
    """What both implementations have; `reference` documents it."""

    def weighted_row_sums(self, table_RD: Tensor, row_N: Tensor, weight_N: Tensor, starts_G: Tensor) -> Tensor: ...

    def row_dots(
        self, rows_BD: Tensor, table_RD: Tensor, token_N: Tensor, latent_N: Tensor, starts_B: Tensor
    ) -> Tensor: ...

    def survivors(self, score_FB: Tensor, floor_F: Tensor) -> tuple[Tensor, Tensor, Tensor]: ...

    def rounded(self, table_RD: Tensor) -> tuple[Tensor, Tensor, Tensor]: ...


def operations(tensor: Tensor) -> Operations:
    """`gpu` for tensors on a GPU where Triton is installed, else `reference`.

    `CROSSCODERS_KERNELS=reference` or `triton` decides for all tensors; Triton runs on a CPU only by its interpreter.
    """
    wanted = os.environ.get("CROSSCODERS_KERNELS", "")
    if wanted not in ("", "reference", "triton"):
        raise ConfigError(f"CROSSCODERS_KERNELS should be 'reference' or 'triton', not '{wanted}'")
    kernels = _triton_kernels() if wanted == "triton" or (tensor.is_cuda and not wanted) else None
    if wanted == "triton" and kernels is None:
        raise ConfigError("CROSSCODERS_KERNELS is 'triton', which is not installed")
    return kernels or reference


@cache
def _triton_kernels() -> Operations | None:
    try:
        from . import gpu
    except ImportError:
        return None
    return gpu
