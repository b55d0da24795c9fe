"""Norms and means of activations, from the first tokens, before training."""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Tensor

from ..errors import TrainingError
from ..models.sequences import SequenceReader
from ..processes import ALONE, Processes
from .config import ActivationConfig
from .harvest import Harvester
from .masks import keep_mask

SAMPLE_ROWS = 4096
"""Rows of the sample that calibration returns."""


@frozen(eq=False)
class Calibration:
    """Statistics of the kept tokens, taken before training."""

    median_norm_S: Tensor
    mean_norm_S: Tensor
    mean_X: Tensor
    """Mean of the raw activations."""
    sample_BX: Tensor
    """Raw activations of some of the tokens, the same on every process."""
    num_tokens: int
    """How many tokens that is."""


def calibrate(
    reader: SequenceReader, harvester: Harvester, config: ActivationConfig, *, processes: Processes = ALONE
) -> Calibration:
    """Median and mean norms and the mean activation of the kept tokens of the first sequences.

    The reader is put back afterwards, so calibration uses up no data. Medians come first and decide, by the outlier
    mask, what the means are taken over.
    """
    state = reader.state()
    world, gather = processes.world, processes.gather_for_harvest
    rows = -(-max(1, config.calibration_tokens // config.context_length) // world) * world
    tokens = reader.read(rows)
    reader.restore(state)
    mine = tokens.sequences(*processes.share(rows))
    x_BTX = harvester(mine)
    mine = mine.to(harvester.device)
    norms_BTS = harvester.norms(x_BTX)
    plain_BT = keep_mask(config.masks, mine, norms_BTS, None)
    all_norms, all_plain = gather(norms_BTS), gather(plain_BT)
    if not bool(all_plain.any()):
        raise TrainingError("the masks leave no token to estimate activation norms from")
    median_S = all_norms[all_plain].median(dim=0).values
    keep_BT = keep_mask(config.masks, mine, norms_BTS, median_S)
    all_keep = gather(keep_BT)
    count = int(all_keep.sum())
    if count == 0:
        raise TrainingError(
            f"max_norm_multiple {config.masks.max_norm_multiple} leaves no token; median norms are {median_S.tolist()}"
        )
    # Sum each process's share in float64, then over processes: the same to rounding for any number of them.
    sum_X = gather(x_BTX[keep_BT].double().sum(dim=0, keepdim=True)).sum(dim=0)
    # Every process gives equally many rows, its own again from the beginning where it has too few.
    own_BX = x_BTX[keep_BT] if bool(keep_BT.any()) else x_BTX.flatten(0, 1)
    own_BX = own_BX[torch.arange(-(-SAMPLE_ROWS // world), device=own_BX.device) % len(own_BX)]
    return Calibration(
        median_norm_S=median_S,
        mean_norm_S=all_norms[all_keep].double().mean(dim=0).float(),
        mean_X=(sum_X / count).float(),
        sample_BX=gather(own_BX),
        num_tokens=count,
    )
