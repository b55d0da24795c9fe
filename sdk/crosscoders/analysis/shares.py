"""What each model brings to a latent: its part of the pre-activation, token by token.

A latent that reads sites of several models adds up what it sees in each: W_enc x̃ + b is the sum of W_enc^s x̃^s over
sites. Summed over the sites of one model, that says which model's activations make the latent fire.
"""

from __future__ import annotations

import torch
from attrs import evolve
from torch import Tensor

from ..crosscoder.latents import Latents
from ..crosscoder.module import Crosscoder
from ..kernels import row_dots


@torch.no_grad()
def shares_by_model(crosscoder: Crosscoder, x_BX: Tensor, latents: Latents) -> dict[str, Tensor]:
    """Each model's part of the pre-activation at every entry of `latents`, (N,), in normalised units.

    `x_BX` are raw activations of the tokens that `latents` counts. The parts and the encoder bias add up to the
    pre-activation; a model that a latent does not read brings 0. Models that nothing reads are left out.
    """
    wiring = crosscoder.wiring
    x_BX = crosscoder.normalised(x_BX)
    found = {model: torch.zeros_like(latents.value_N) for model in wiring.read.points_by_model}
    for index, group in enumerate(wiring.groups):
        columns = wiring.latent_slices[group.name]
        here_N, mine = latents.inside(columns), latents.in_group(columns)
        # Only rows of latents that fire are copied: a dictionary may be far larger than what a few tokens need.
        fired_M, row_N = torch.unique(mine.latent_N, return_inverse=True)
        mine = evolve(mine, latent_N=row_N, num_latents=len(fired_M))
        read, rows_MX = wiring.layout.subset(group.reads), crosscoder.encoder_weight(index)[fired_M]
        for model, points in read.points_by_model.items():
            names = [f"{model}/{point}" for point in points]
            of_input, of_rows = wiring.layout.columns(names), read.columns(names)
            found[model][here_N] = row_dots(x_BX[:, of_input].contiguous(), rows_MX[:, of_rows].contiguous(), mine)
    return found
