"""Exact selection of the largest scores of a whole batch, over one or several processes."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def batch_topk_mask(score_BF: Tensor, count: int, *, hint: float = 0.0) -> tuple[Tensor, Tensor]:
    """Mask of the `count` largest positive scores of the global batch, and the smallest score kept.

    `hint` is a guess of a lower bound (the last step's smallest score kept, less a margin): when at least `count`
    scores lie above it, only those are sorted. A wrong guess costs time, never exactness. In a distributed run
    `score_BF` is this process's part and `count` the total over processes; each learns the same global cut.
    Fewer than `count` positive scores are all kept. With none at all the smallest score kept is 0.
    """
    alone = not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1
    survivors_N = score_BF[score_BF > max(hint, 0.0)] if alone else _gather_largest(score_BF[score_BF > 0], count)
    if alone and hint > 0 and survivors_N.numel() < count:
        survivors_N = score_BF[score_BF > 0]
    if survivors_N.numel() == 0:
        return torch.zeros_like(score_BF, dtype=torch.bool), score_BF.new_zeros(())
    if survivors_N.numel() > count:
        cut = torch.topk(survivors_N, count, sorted=False).values.min()
    else:
        cut = survivors_N.min()
    mask_BF = score_BF >= cut
    if alone:
        _drop_surplus_ties(mask_BF, score_BF, cut, count)
    return mask_BF, cut


def _drop_surplus_ties(mask_BF: Tensor, score_BF: Tensor, cut: Tensor, count: int) -> None:
    """Equal scores at the cut can be more than fit: keep the first ones, so that exactly `count` are kept."""
    surplus = int(mask_BF.count_nonzero()) - count
    if surplus > 0:
        tied_N = (score_BF == cut).flatten().nonzero().squeeze(1)
        mask_BF.view(-1)[tied_N[-surplus:]] = False


def _gather_largest(score_N: Tensor, count: int) -> Tensor:
    """The `count` largest scores of each process, from all of them: enough to find the global cut exactly."""
    largest_N = torch.topk(score_N, min(count, score_N.numel()), sorted=False).values
    padded_N = score_N.new_zeros(count)
    padded_N[: largest_N.numel()] = largest_N
    parts = [torch.empty_like(padded_N) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, padded_N)
    gathered_N = torch.cat(parts)
    return gathered_N[gathered_N > 0]
