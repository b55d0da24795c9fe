"""The operations in C (`native.c`), compiled on first use for the processor at hand.

They need a C compiler and a torch that runs on OpenMP, as on Linux; `available` says whether both exist. Tensors that
they do not support (other types, devices or strides) fall back to `reference`.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import compiler, reference
from .reference import counted, row_dots, weighted_row_sums

if TYPE_CHECKING:
    from .entries import Entries

__all__ = ["available", "counted", "grouped", "rounded", "row_dots", "sums_and_dots", "survivors", "weighted_row_sums"]

SURVIVORS = {torch.float32: "fp32_survivors", torch.bfloat16: "bf16_survivors"}
ROOM = 32
"""The buffer for survivors holds one in this many scores; if there are more, the search is repeated with room enough
for all."""


def available() -> bool:
    """Whether the library is built already or can be built here."""
    return _library() is not None


def survivors(score_FB: Tensor, floor_F: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Like `reference.survivors`, but in one pass; for fp32 and bf16."""
    usual = score_FB.is_cpu and score_FB.is_contiguous() and floor_F.dtype == torch.float32
    if not usual or score_FB.dtype not in SURVIVORS:
        return reference.survivors(score_FB, floor_F)
    rows, columns = score_FB.shape
    # Every thread fills an equal share of the buffer, so there must be room for at least one entry each.
    room = torch.get_num_threads() + score_FB.numel() // ROOM
    while True:
        row_N, column_N = (torch.empty(room, dtype=torch.int64) for _ in range(2))
        value_N = torch.empty(room, dtype=score_FB.dtype)
        found = _call(
            SURVIVORS[score_FB.dtype], score_FB, floor_F.contiguous(), rows, columns, room, row_N, column_N, value_N
        )
        if found >= 0:
            # Copy, so that the much larger buffer is freed.
            return row_N[:found].clone(), column_N[:found].clone(), value_N[:found].clone()
        # A negative number is the room that would have been enough.
        room = -found


def grouped(key_N: Tensor, num_keys: int) -> tuple[Tensor, Tensor]:
    """Like `reference.grouped`, but by a counting sort."""
    if not (key_N.is_cpu and key_N.dtype == torch.int64):
        return reference.grouped(key_N, num_keys)
    order_N, starts_K = torch.empty(len(key_N), dtype=torch.int64), torch.empty(num_keys, dtype=torch.int64)
    _call("grouped", key_N.contiguous(), len(key_N), num_keys, order_N, starts_K)
    return order_N, starts_K


def rounded(table_RD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Like `reference.rounded`, but in one pass."""
    if not _takes(table_RD):
        return reference.rounded(table_RD)
    rows, width = table_RD.shape
    rough_RD = torch.empty(rows, reference.padded(width), dtype=torch.bfloat16)
    norm_R, error_R = torch.empty(rows), torch.empty(rows)
    _call("rounded", table_RD, table_RD.stride(0), rows, width, rough_RD.shape[1], rough_RD, norm_R, error_R)
    return rough_RD, norm_R, error_R


def sums_and_dots(rows_BD: Tensor, table_FD: Tensor, weight_N: Tensor, latents: Entries) -> tuple[Tensor, Tensor]:
    """Like `reference.sums_and_dots`, but reading the rows only once for both results."""
    if not (_takes(rows_BD) and _takes(table_FD) and weight_N.dtype == torch.float32):
        return reference.sums_and_dots(rows_BD, table_FD, weight_N, latents)
    (num_latents, width), entries = table_FD.shape, len(weight_N)
    sums_FD, dot_N = torch.empty(num_latents, width), torch.empty(entries)
    _call(
        "sums_and_dots",
        rows_BD,
        rows_BD.stride(0),
        table_FD,
        table_FD.stride(0),
        width,
        latents.token_N.contiguous(),
        weight_N.contiguous(),
        latents.by_latent,
        latents.latent_starts_F,
        entries,
        num_latents,
        sums_FD,
        dot_N,
    )
    return sums_FD, dot_N


def _takes(table_RD: Tensor) -> bool:
    return table_RD.is_cpu and table_RD.dtype == torch.float32 and table_RD.stride(1) == 1


def _call(name: str, *arguments: Tensor | int) -> int:
    values = (ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else ctypes.c_int64(a) for a in arguments)
    return int(getattr(_library(), name)(*values))


@cache
def _library() -> ctypes.CDLL | None:
    found = compiler.load()
    if found is not None:
        for name in SURVIVORS.values():
            getattr(found, name).restype = ctypes.c_int64
    return found
