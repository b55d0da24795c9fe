"""Scales of sites that a checkpoint does not say, from a study's tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..devices import precise
from ..errors import AnalysisError

if TYPE_CHECKING:
    from .study import Study


@torch.no_grad()
def estimate_scales(study: Study) -> None:
    """See `Study.estimate_normalisation`."""
    normaliser, layout = study.crosscoder.normaliser, study.crosscoder.layout
    sums, count = dict.fromkeys(normaliser.unknown, 0.0), 0
    for batch in study.batches() if sums else ():
        x_BX = batch.x_BX
        count += len(x_BX)
        for name in sums:
            sums[name] += float(precise(x_BX[:, layout.slices[name]]).norm(dim=1).sum())
    if sums and not count:
        raise AnalysisError("no token counts, so no normalisation can be estimated")
    for name, total in sums.items():
        width = layout.subset([name]).width
        normaliser.set_scales({name: width**0.5 * count / total})
