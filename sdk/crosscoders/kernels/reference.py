"""The sparse operations in plain PyTorch: what runs anywhere, and what the other kernels are tested against."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from .entries import Entries

PADDING = 32
"""Columns of a rounded table are a multiple of this."""
ROUNDED_AT_ONCE = {"cpu": 2**18, "cuda": 2**26}
"""Weights rounded at a time: on a CPU, as many as stay near while they are looked at three times."""


def weighted_row_sums(table_RD: Tensor, row_N: Tensor, weight_N: Tensor, starts_G: Tensor) -> Tensor:
    """Sum `weight · table[row]` over each of G segments, which follow each other and start at `starts_G`: (G, D)."""
    return functional.embedding_bag(
        row_N, table_RD, starts_G, mode="sum", per_sample_weights=weight_N.to(table_RD.dtype)
    )


def row_dots(rows_BD: Tensor, table_RD: Tensor, token_N: Tensor, latent_N: Tensor) -> Tensor:
    """The products rows[token] · table[latent] of N entries: (N,)."""
    # The embedding bag's own backward to its weights is exactly this, without gathering N rows twice. It needs no
    # segments where it is told each entry's.
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(  # type: ignore[no-any-return]
        rows_BD.contiguous(),
        table_RD.contiguous(),
        latent_N,
        token_N[:0],
        token_N,
        0,  # mode "sum"
    )


def sums_and_dots(rows_BD: Tensor, table_FD: Tensor, weight_N: Tensor, latents: Entries) -> tuple[Tensor, Tensor]:
    """Of each latent the sum of weight · rows[token], (F, D); of each entry rows[token] · table[latent], (N,)."""
    by_latent = latents.token_of_latent_N, weight_N[latents.by_latent], latents.latent_starts_F
    return weighted_row_sums(rows_BD, *by_latent), row_dots(rows_BD, table_FD, latents.token_N, latents.latent_N)


def survivors(score_FB: Tensor, floor_F: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The few entries of a contiguous tensor that exceed their row's floor, row by row: row, column and value."""
    num_columns = max(1, score_FB.shape[1])
    if score_FB.device.type != "cpu" or score_FB.numel() % 8:
        place_N = (score_FB > floor_F[:, None]).view(-1).nonzero().squeeze(1)
    else:
        # `nonzero` of a mask costs as much as a small product; looking at eight entries at a time makes it cheap.
        mask_N = _exceeds(score_FB, floor_F).view(-1)
        word_N = mask_N.view(torch.int64).nonzero().squeeze(1)
        which_N, bit_N = mask_N.view(-1, 8)[word_N].nonzero().unbind(1)
        place_N = word_N[which_N] * 8 + bit_N
    row_N = place_N // num_columns
    return row_N, place_N - row_N * num_columns, score_FB.view(-1)[place_N]


def _exceeds(score_FB: Tensor, floor_F: Tensor) -> Tensor:
    if score_FB.dtype == torch.bfloat16 and floor_F.dtype == torch.float32 and bool((floor_F > 0).all()):
        # Positive numbers are in the order of their bits, those of negative ones are negative integers, and no number
        # in bf16 lies between the floor and its first half.
        return score_FB.view(torch.int16) > (floor_F.view(torch.int32) >> 16).to(torch.int16)[:, None]
    return score_FB > floor_F[:, None]


def grouped(key_N: Tensor, num_keys: int) -> tuple[Tensor, Tensor]:
    """The permutation that orders N entries by their keys, those of one key as they were; where each begin, (K,)."""
    counts_K = torch.bincount(key_N, minlength=num_keys)
    # Half as many bytes sort in half the time.
    return torch.argsort(key_N.int(), stable=True), counts_K.cumsum(0) - counts_K


def padded(width: int) -> int:
    """Columns of a rounded table of `width`."""
    return width + PADDING - width % PADDING


def rounded(table_RD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A table in bf16, the norms of its rows, and the norms of what rounding took from them.

    The table has at least one more column, of zeros, and in all a number that products like.
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
