"""Which implementation a tensor's operations run in: Triton kernels on GPUs, C on CPUs, or plain PyTorch."""

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
    """What all implementations have; `reference` documents it."""

    def weighted_row_sums(self, table_RD: Tensor, row_N: Tensor, weight_N: Tensor, starts_G: Tensor) -> Tensor: ...

    def row_dots(self, rows_BD: Tensor, table_RD: Tensor, token_N: Tensor, latent_N: Tensor) -> Tensor: ...

    def sums_and_dots(
        self, rows_BD: Tensor, table_FD: Tensor, weight_N: Tensor, latents: Entries
    ) -> tuple[Tensor, Tensor]: ...

    def survivors(self, score_FB: Tensor, floor_F: Tensor) -> tuple[Tensor, Tensor, Tensor]: ...

    def grouped(self, key_N: Tensor, num_keys: int) -> tuple[Tensor, Tensor]: ...

    def rounded(self, table_RD: Tensor) -> tuple[Tensor, Tensor, Tensor]: ...


_MISSING = {
    "reference": "",
    "native": "needs a C compiler, and a torch that runs on OpenMP",
    "triton": "is not installed",
}


def operations(tensor: Tensor) -> Operations:
    """Triton's kernels for a tensor on a GPU, compiled C for one on a CPU, and `reference` where those cannot be had.

    `CROSSCODERS_KERNELS` names one of the three for all tensors; Triton's run on a CPU only by its interpreter.
    """
    wanted = os.environ.get("CROSSCODERS_KERNELS", "")
    if wanted not in ("", *_MISSING):
        raise ConfigError(f"CROSSCODERS_KERNELS should be {', '.join(_MISSING)}, not '{wanted}'")
    kernels = _kernels(wanted or {"cpu": "native", "cuda": "triton"}.get(tensor.device.type, "reference"))
    if kernels is None and wanted:
        raise ConfigError(f"CROSSCODERS_KERNELS is '{wanted}', which {_MISSING[wanted]}")
    return kernels or reference


@cache
def _kernels(kind: str) -> Operations | None:
    """Those of a kind; None where they cannot be had."""
    if kind == "reference":
        return reference
    if kind == "native":
        return native if native.available() else None
    try:
        from . import gpu
    except ImportError:
        return None
    return gpu
