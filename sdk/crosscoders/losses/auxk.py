"""AuxK: dead latents predict the residual of the others (Gao et al. 2024, arXiv 2406.04093, appendix A.2).

On the scale of the main term where that is a sum of squares: squared errors, mean over tokens. Where the main term is
an unsquared norm that scale would be another one, so there the term is relative, as in the published code of Minder
et al. 2025: divided by the variance of the residual over the batch. The residual is detached and has the bias removed
already, so none is added.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..crosscoder.latents import Latents
from .context import StepContext
from .loss import ForwardPass


def auxk(forward_pass: ForwardPass, step: StepContext, *, k_share: float, relative: bool = False) -> Tensor:
    """mean over tokens of ‖residual − Σ top dead f·d‖²; 0 without dead latents.

    With `relative`, over the mean of ‖residual − mean residual‖² of the global batch; 0 where that is 0.
    """
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
    error = step.mean((residual_BX - predicted_BX).square().sum())
    if not relative:
        return error

    def mean(total: Tensor) -> Tensor:
        # Every shard has the residual of the same tokens, so only replicas are summed over.
        return processes.over_replicas(step.mean(total)) / processes.num_replicas

    variance = mean(residual_BX.square().sum()) - mean(residual_BX.sum(dim=0)).square().sum()
    return (error / variance).nan_to_num(0.0, posinf=0.0)
