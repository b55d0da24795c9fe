"""Exact selection of the largest scores of a whole batch, over one or several processes."""

from __future__ import annotations

import numpy
import torch
from torch import Tensor

from ..processes import ALONE, Processes


def batch_topk(score_N: Tensor, count: int, processes: Processes = ALONE) -> tuple[Tensor, Tensor]:
    """Select the `count` largest positive scores of the global batch (BatchTopK; Bussmann et al. 2024, §3).

    Returns which of this process's candidates are selected, and the smallest selected score, the cut. `score_N` are the
    candidates in a fixed order; entries that are not listed must be smaller than the cut. In a distributed run, `count`
    is the total over processes, and all of them learn the same cut. If there are fewer than `count` candidates, all are
    selected; if there are none, the cut is 0. On one process, ties at the cut go to the first entries.
    """
    if processes.world == 1 and not score_N.is_cpu:
        return _without_waiting(score_N, count)
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


def _without_waiting(score_N: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The same on one GPU, where asking for a number or for the size of a selection would wait for all work so far."""
    if not len(score_N):
        return torch.zeros_like(score_N, dtype=torch.bool), score_N.new_zeros(())
    positive_N = score_N > 0
    cut = torch.where(positive_N, score_N, torch.inf).min()
    if len(score_N) > count:
        # Of fewer than `count` positive scores the k-th largest is not positive, and all of them are selected.
        cut = cut.maximum(_kth_largest(score_N, count))
    at_cut_N = score_N == cut
    places = count - (score_N > cut).sum()
    keep_N = positive_N & ((score_N > cut) | (at_cut_N & (at_cut_N.cumsum(0) <= places)))
    return keep_N, torch.where(cut.isinf(), 0.0, cut)


def _kth_largest(score_N: Tensor, k: int) -> Tensor:
    if score_N.device.type != "cpu":
        return torch.topk(score_N, k, sorted=False).values.min()
    # numpy selects with vector instructions: about ten times as fast as torch.topk.
    return torch.from_numpy(numpy.partition(score_N.numpy(), len(score_N) - k))[-k]


def _gather_largest(score_N: Tensor, count: int, processes: Processes) -> Tensor:
    """The `count` largest scores of each process, gathered from all of them: enough to find the exact global cut."""
    largest_N = torch.topk(score_N, min(count, score_N.numel()), sorted=False).values
    # Gathering needs equal shapes. Zeros are padding, because only positive scores take part.
    padded_N = score_N.new_zeros(count)
    padded_N[: largest_N.numel()] = largest_N
    gathered_N = processes.gather(padded_N)
    return gathered_N[gathered_N > 0]
