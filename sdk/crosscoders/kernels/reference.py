"""The sparse operations in plain PyTorch: fast on CPUs, and what the GPU's kernels are tested against."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def weighted_row_sums(table_RD: Tensor, row_N: Tensor, weight_N: Tensor, starts_G: Tensor) -> Tensor:
    """Sum `weight · table[row]` over each of G segments, which follow each other and start at `starts_G`: (G, D)."""
    return functional.embedding_bag(
        row_N, table_RD, starts_G, mode="sum", per_sample_weights=weight_N.to(table_RD.dtype)
    )


def row_dots(rows_BD: Tensor, table_RD: Tensor, token_N: Tensor, latent_N: Tensor, starts_B: Tensor) -> Tensor:
    """The products rows[token] · table[latent] of N entries ordered by token, each token's from `starts_B` on: (N,)."""
    # The embedding bag's own backward to its weights is exactly this, without gathering N rows twice.
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(  # type: ignore[no-any-return]
        rows_BD.contiguous(),
        table_RD.contiguous(),
        latent_N,
        starts_B,
        token_N,
        0,  # mode "sum"
    )


def survivors(score_BF: Tensor, floor_F: Tensor) -> tuple[Tensor, Tensor]:
    """The few entries of a contiguous tensor that exceed their column's floor: places in it, row by row, and values."""
    score_N = score_BF.view(-1)
    if score_BF.device.type != "cpu" or score_BF.numel() % 8:
        place_N = (score_BF > floor_F).view(-1).nonzero().squeeze(1)
        return place_N, score_N[place_N]
    # `nonzero` of a mask costs as much as a small product; looking at eight entries at a time makes it cheap.
    mask_N = _exceeds(score_BF, floor_F).view(-1)
    word_N = mask_N.view(torch.int64).nonzero().squeeze(1)
    which_N, bit_N = mask_N.view(-1, 8)[word_N].nonzero().unbind(1)
    place_N = word_N[which_N] * 8 + bit_N
    return place_N, score_N[place_N]


def _exceeds(score_BF: Tensor, floor_F: Tensor) -> Tensor:
    if score_BF.dtype == torch.bfloat16 and floor_F.dtype == torch.bfloat16 and bool((floor_F > 0).all()):
        # Positive numbers are in the order of their bits, and those of negative ones are negative integers.
        return score_BF.view(torch.int16) > floor_F.view(torch.int16)
    return score_BF > floor_F
