"""Norms and means of activations, estimated from the first tokens before training."""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Tensor

from ..devices import precise
from ..errors import TrainingError
from ..models.sequences import SequenceReader
from ..processes import ALONE, Processes
from .config import ActivationConfig
from .harvest import Harvester
from .masks import keep_mask

SAMPLE_ROWS = 4096
"""Number of rows in the sample that calibration returns."""


@frozen(eq=False)
class Calibration:
    """Statistics of the kept tokens, taken before training."""

    median_norm_S: Tensor
    mean_norm_S: Tensor
    mean_X: Tensor
    """Mean of the raw activations."""
    sample_BX: Tensor
    """Raw activations of a sample of the tokens, identical on every process."""
    num_tokens: int
    """Number of kept tokens that the statistics were taken over."""


def calibrate(
    reader: SequenceReader, harvester: Harvester, config: ActivationConfig, *, processes: Processes = ALONE
) -> Calibration:
    """Estimate median and mean norms and the mean activation from the kept tokens of the first sequences.

    The reader is rewound afterwards, so calibration consumes no data. Medians are computed first: the outlier mask
    needs them, and it decides which tokens the means are taken over.
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
        raise TrainingError("the token masks leave no tokens to estimate activation norms from")
    median_S = all_norms[all_plain].median(dim=0).values
    keep_BT = keep_mask(config.masks, mine, norms_BTS, median_S)
    all_keep = gather(keep_BT)
    count = int(all_keep.sum())
    if count == 0:
        raise TrainingError(
            f"max_norm_multiple {config.masks.max_norm_multiple} masks all tokens; median norms are {median_S.tolist()}"
        )
    # Sum in double precision, first per process and then over processes: the result is the same, up to rounding, for
    # any number.
    sum_X = gather(precise(x_BTX[keep_BT]).sum(dim=0, keepdim=True)).sum(dim=0)
    # Gathering needs equally many rows from every process, so one that has too few repeats its own from the start.
    own_BX = x_BTX[keep_BT] if bool(keep_BT.any()) else x_BTX.flatten(0, 1)
    own_BX = own_BX[torch.arange(-(-SAMPLE_ROWS // world), device=own_BX.device) % len(own_BX)]
    return Calibration(
        median_norm_S=median_S,
        mean_norm_S=precise(all_norms[all_keep]).mean(dim=0).to(all_norms),
        mean_X=(sum_X / count).to(all_norms),
        sample_BX=gather(own_BX),
        num_tokens=count,
    )
