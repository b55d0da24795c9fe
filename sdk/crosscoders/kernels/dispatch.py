"""Chooses the implementation of the sparse operations for a tensor: Triton on GPUs, C on CPUs, or plain PyTorch."""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from ..errors import ConfigError
from . import native, reference

if TYPE_CHECKING:
    from .entries import Entries


class Operations(Protocol):
    """The operations that every implementation has; `reference` documents them."""

    def weighted_row_sums(self, table_RD: Tensor, row_N: Tensor, weight_N: Tensor, starts_G: Tensor) -> Tensor: ...

    def row_dots(self, rows_BD: Tensor, table_RD: Tensor, token_N: Tensor, latent_N: Tensor) -> Tensor: ...

    def sums_and_dots(
        self, rows_BD: Tensor, table_FD: Tensor, weight_N: Tensor, latents: Entries
    ) -> tuple[Tensor, Tensor]: ...

    def survivors(self, score_FB: Tensor, floor_F: Tensor) -> tuple[Tensor, Tensor, Tensor]: ...

    def counted(self, key_N: Tensor, num_keys: int) -> Tensor: ...

    def grouped(self, key_N: Tensor, num_keys: int) -> tuple[Tensor, Tensor]: ...

    def rounded(self, table_RD: Tensor) -> tuple[Tensor, Tensor, Tensor]: ...


_MISSING = {
    "reference": "",
    "native": "needs a C compiler, and a torch that runs on OpenMP",
    "triton": "is not installed",
}


def operations(tensor: Tensor) -> Operations:
    """The implementation for a tensor: Triton on a GPU, compiled C on a CPU, or `reference` if that is unavailable.

    `CROSSCODERS_KERNELS` selects one of the three for all tensors; Triton's run on a CPU only in its interpreter.
    """
    wanted = os.environ.get("CROSSCODERS_KERNELS", "")
    if wanted not in ("", *_MISSING):
        raise ConfigError(f"CROSSCODERS_KERNELS should be one of {', '.join(_MISSING)}, not '{wanted}'")
    kernels = _kernels(wanted or {"cpu": "native", "cuda": "triton"}.get(tensor.device.type, "reference"))
    if kernels is None and wanted:
        raise ConfigError(f"CROSSCODERS_KERNELS is '{wanted}', which {_MISSING[wanted]}")
    return kernels or reference


@cache
def _kernels(kind: str) -> Operations | None:
    """The kernels of this kind, or None if they are unavailable."""
    if kind == "reference":
        return reference
    if kind == "native":
        return native if native.available() else None
    try:
        from . import gpu
    except ImportError:
        return None
    return gpu
