"""AuxK: dead latents predict the residual of the others (Gao et al. 2024, arXiv 2406.04093, appendix A.2).

The term has the scale of the main term: squared errors, averaged over tokens, not divided by the residual's variance.
The residual is detached and no longer contains the bias, so the prediction adds none.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..crosscoder.latents import Latents
from .context import StepContext
from .loss import ForwardPass


def auxk(forward_pass: ForwardPass, step: StepContext, *, k_share: float) -> Tensor:
    """The mean over tokens of ‖residual − Σ f·d‖², summed over the top dead latents; 0 if no latent is dead."""
    residual_BX, crosscoder = forward_pass.residual_BX.detach(), forward_pass.crosscoder
    processes = step.processes
    if step.dead_F is None or not bool(processes.over_shards(step.dead_F.sum()) > 0):
        return residual_BX.new_zeros(())
    mean_width = crosscoder.written.width / len(crosscoder.written.sites)
    with torch.no_grad():
        dead_D = step.dead_F.nonzero().squeeze(1)
        f_BD = crosscoder.pre_activations_of(forward_pass.read_BX, dead_D).relu_()
        score_BD = f_BD * crosscoder.score_norms()[dead_D]
        k = max(1, int(k_share * mean_width))
        top = score_BD.topk(min(k, len(dead_D)), dim=1)
        keep_BK = top.values > 0
        if processes.num_shards > 1:
            # The largest over all shards are among the largest of each shard.
            mine_BK = torch.nn.functional.pad(top.values, (0, k - top.values.shape[1]))
            keep_BK &= top.values >= processes.gather_shards(mine_BK, dim=1).topk(k, dim=1).values[:, -1:]
        mask_BD = torch.zeros_like(f_BD, dtype=torch.bool).scatter_(1, top.indices, keep_BK)
        token_N, place_N = mask_BD.nonzero(as_tuple=True)
        latents = Latents(token_N, dead_D[place_N], f_BD[token_N, place_N], len(f_BD), crosscoder.num_latents)
    value_N = crosscoder.values(forward_pass.read_BX, latents)
    predicted_BX = processes.sum_with_gradient(crosscoder.decode_without_bias(latents, value_N=value_N))
    return step.mean((residual_BX - predicted_BX).square().sum())
