"""Exact selection of the largest scores of a whole batch, over one or several processes."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def batch_topk(score_N: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Which candidates are among the `count` largest positive scores of the global batch, and the smallest score kept.

    `score_N` are this process's candidates, in a fixed order; those that it leaves out must be smaller than the cut. In
    a distributed run `count` is the total over processes, and each learns the same cut. Fewer than `count` candidates
    are all kept; without any, the smallest score kept is 0. Of equal scores at the cut the first are kept.
    """
    contenders_N = score_N[score_N > 0]
    if not _alone():
        contenders_N = _gather_largest(contenders_N, count)
    if contenders_N.numel() == 0:
        return torch.zeros_like(score_N, dtype=torch.bool), score_N.new_zeros(())
    if contenders_N.numel() > count:
        cut = torch.topk(contenders_N, count, sorted=False).values.min()
    else:
        cut = contenders_N.min()
    keep_N = score_N >= cut
    if _alone():
        surplus = int(keep_N.count_nonzero()) - count
        if surplus > 0:
            keep_N[(score_N == cut).nonzero().squeeze(1)[-surplus:]] = False
    return keep_N, cut


def enough(number: int, count: int, device: torch.device) -> bool:
    """Whether the candidates of all processes, `number` of them here, reach `count`."""
    if _alone():
        return number >= count
    total = torch.tensor(number, device=device)
    distributed.all_reduce(total)
    return int(total) >= count


def least_over_processes(value: Tensor) -> Tensor:
    """The smallest of a scalar's values on all processes."""
    if _alone():
        return value
    least = value.clone()
    distributed.all_reduce(least, op=distributed.ReduceOp.MIN)
    return least


def sparse_places(mask_BF: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of the few true entries of a contiguous mask, row by row.

    `nonzero` of a mask costs as much as a small product; looking at eight entries at a time makes it cheap.
    """
    if mask_BF.numel() % 8 or mask_BF.device.type != "cpu":
        row_N, column_N = mask_BF.nonzero(as_tuple=True)
        return row_N, column_N
    words = mask_BF.view(-1).view(torch.int64)
    word_N = words.nonzero().squeeze(1)
    which_N, bit_N = mask_BF.view(-1, 8)[word_N].nonzero(as_tuple=True)
    flat_N = word_N[which_N] * 8 + bit_N
    return flat_N // mask_BF.shape[1], flat_N % mask_BF.shape[1]


def _alone() -> bool:
    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1


def _gather_largest(score_N: Tensor, count: int) -> Tensor:
    """The `count` largest scores of each process, from all of them: enough to find the global cut exactly."""
    largest_N = torch.topk(score_N, min(count, score_N.numel()), sorted=False).values
    padded_N = score_N.new_zeros(count)
    padded_N[: largest_N.numel()] = largest_N
    parts = [torch.empty_like(padded_N) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, padded_N)
    gathered_N = torch.cat(parts)
    return gathered_N[gathered_N > 0]
