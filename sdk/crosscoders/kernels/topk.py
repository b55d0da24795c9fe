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
