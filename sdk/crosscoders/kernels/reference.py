"""The sparse operations in plain PyTorch, which run anywhere; the other kernels are tested against them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from .entries import Entries

PADDING = 32
"""The number of columns of a rounded table is a multiple of this, because bf16 products are faster then."""
ROW_DOTS = "_embedding_bag_per_sample_weights_backward"
"""An operation of torch's own that gives products of rows without copying them."""
ROUNDED_AT_ONCE = {"cpu": 2**18, "cuda": 2**26}
"""Number of weights rounded at a time: on a CPU, as many as stay in cache while they are read three times."""


def weighted_row_sums(table_RD: Tensor, row_N: Tensor, weight_N: Tensor, starts_G: Tensor) -> Tensor:
    """Sum `weight · table[row]` over each of G consecutive segments, which start at `starts_G`: (G, D)."""
    return functional.embedding_bag(
        row_N, table_RD, starts_G, mode="sum", per_sample_weights=weight_N.to(table_RD.dtype)
    )


def row_dots(rows_BD: Tensor, table_RD: Tensor, token_N: Tensor, latent_N: Tensor) -> Tensor:
    """The dot products rows[token] · table[latent] of N entries: (N,)."""
    # The gradient of an embedding bag with respect to its per-sample weights is exactly this, and it does not gather
    # two (N, D) tensors first. It is given the segment of each entry, so it needs no segment offsets.
    product = getattr(torch.ops.aten, ROW_DOTS, None)
    if product is None:
        # Nobody promises an operation that begins with an underscore.
        return (rows_BD[token_N] * table_RD[latent_N]).sum(dim=1)
    return product(  # type: ignore[no-any-return]
        rows_BD.contiguous(),
        table_RD.contiguous(),
        latent_N,
        token_N[:0],
        token_N,
        0,  # mode "sum"
    )


def sums_and_dots(rows_BD: Tensor, table_FD: Tensor, weight_N: Tensor, latents: Entries) -> tuple[Tensor, Tensor]:
    """For each latent, the sum of weight · rows[token], (F, D); for each entry, rows[token] · table[latent], (N,)."""
    by_latent = latents.token_of_latent_N, weight_N[latents.by_latent], latents.latent_starts_F
    return weighted_row_sums(rows_BD, *by_latent), row_dots(rows_BD, table_FD, latents.token_N, latents.latent_N)


def survivors(score_FB: Tensor, floor_F: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The few entries of a contiguous tensor that exceed their row's floor, in row order: rows, columns, values."""
    num_columns = max(1, score_FB.shape[1])
    if score_FB.device.type != "cpu" or score_FB.numel() % 8:
        place_N = (score_FB > floor_F[:, None]).view(-1).nonzero().squeeze(1)
    else:
        # `nonzero` of a mask costs as much as a small matrix product. Viewing eight booleans as one integer first makes
        # it cheap, because nearly all of them are zero.
        mask_N = _exceeds(score_FB, floor_F).view(-1)
        word_N = mask_N.view(torch.int64).nonzero().squeeze(1)
        which_N, bit_N = mask_N.view(-1, 8)[word_N].nonzero().unbind(1)
        place_N = word_N[which_N] * 8 + bit_N
    row_N = place_N // num_columns
    return row_N, place_N - row_N * num_columns, score_FB.view(-1)[place_N]


def _exceeds(score_FB: Tensor, floor_F: Tensor) -> Tensor:
    if score_FB.dtype == torch.bfloat16 and floor_F.dtype == torch.float32 and bool((floor_F > 0).all()):
        # Compare bits as integers: positive floats sort like their bits, negative floats are negative integers, and no
        # bf16 number lies between the fp32 floor and its upper half, which is the floor truncated to bf16.
        return score_FB.view(torch.int16) > (floor_F.view(torch.int32) >> 16).to(torch.int16)[:, None]
    return score_FB > floor_F[:, None]


def counted(key_N: Tensor, num_keys: int) -> Tensor:
    """How many of N entries have each key, (K,)."""
    if key_N.is_cpu:
        return torch.bincount(key_N, minlength=num_keys)
    # On a GPU that waits twice: it asks for the smallest and the largest key.
    return key_N.new_zeros(num_keys).scatter_add_(0, key_N, torch.ones_like(key_N))


def grouped(key_N: Tensor, num_keys: int) -> tuple[Tensor, Tensor]:
    """The stable permutation that sorts N entries by key, and the offset at which each key's entries begin, (K,)."""
    counts_K = counted(key_N, num_keys)
    # Sorting int32 takes half the time of int64.
    return torch.argsort(key_N.int(), stable=True), counts_K.cumsum(0) - counts_K


def padded(width: int) -> int:
    """The number of columns of a rounded table whose rows have `width` numbers; always at least one more."""
    return width + PADDING - width % PADDING


def rounded(table_RD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Round a table to bf16; returns it with the norms of its rows and the norms of their rounding errors.

    The rounded table is padded with columns of zeros, at least one, to a multiple of `PADDING`.
    """
    width = table_RD.shape[1]
    rough_RD = table_RD.new_zeros(len(table_RD), padded(width), dtype=torch.bfloat16)
    norm_R, error_R = (table_RD.new_empty(len(table_RD)) for _ in range(2))
    step = max(1, ROUNDED_AT_ONCE["cpu" if table_RD.device.type == "cpu" else "cuda"] // width)
    for start in range(0, len(table_RD), step):
        rows = slice(start, start + step)
        rough_RD[rows, :width] = table_RD[rows]
        norm_R[rows] = table_RD[rows].norm(dim=1)
        error_R[rows] = rough_RD[rows, :width].to(table_RD.dtype).sub_(table_RD[rows]).norm(dim=1)
    return rough_RD, norm_R, error_R
