"""Exact selection of the largest scores of a whole batch, over one or several processes."""

from __future__ import annotations

import numpy
import torch
from torch import Tensor

from ..processes import ALONE, Processes


def batch_topk(score_N: Tensor, count: int, processes: Processes = ALONE) -> tuple[Tensor, Tensor]:
    """Which candidates are among the `count` largest positive scores of the global batch, and the smallest score kept.

    `score_N` are this process's candidates, in a fixed order; those that it leaves out must be smaller than the cut. In
    a distributed run `count` is the total over processes, and each learns the same cut. Fewer than `count` candidates
    are all kept; without any, the smallest score kept is 0. Of equal scores at the cut the first are kept.
    """
    contenders_N = score_N[score_N > 0]
    if processes.world > 1:
        contenders_N = _gather_largest(contenders_N, count, processes)
    if contenders_N.numel() == 0:
        return torch.zeros_like(score_N, dtype=torch.bool), score_N.new_zeros(())
    cut = _kth_largest(contenders_N, count) if contenders_N.numel() > count else contenders_N.min()
    keep_N = score_N >= cut
    if processes.world == 1:
        surplus = int(keep_N.count_nonzero()) - count
        if surplus > 0:
            keep_N[(score_N == cut).nonzero().squeeze(1)[-surplus:]] = False
    return keep_N, cut


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


def _kth_largest(score_N: Tensor, k: int) -> Tensor:
    if score_N.device.type != "cpu":
        return torch.topk(score_N, k, sorted=False).values.min()
    # numpy selects with vector instructions: about ten times as fast as torch.topk.
    return torch.from_numpy(numpy.partition(score_N.numpy(), len(score_N) - k))[-k]


def _gather_largest(score_N: Tensor, count: int, processes: Processes) -> Tensor:
    """The `count` largest scores of each process, from all of them: enough to find the global cut exactly."""
    largest_N = torch.topk(score_N, min(count, score_N.numel()), sorted=False).values
    padded_N = score_N.new_zeros(count)
    padded_N[: largest_N.numel()] = largest_N
    gathered_N = processes.gather(padded_N)
    return gathered_N[gathered_N > 0]
