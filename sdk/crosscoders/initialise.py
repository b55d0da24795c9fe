"""How a crosscoder's weights start."""

from __future__ import annotations

import torch
from torch import Tensor

from .crosscoder import Crosscoder


@torch.no_grad()
def initialise(
    crosscoder: Crosscoder,
    *,
    decoder_norm: float,
    same_across_sites: bool,
    generator: torch.Generator,
    mean_X: Tensor | None = None,
) -> None:
    """Random decoder directions of norm `decoder_norm` at each site; encoder = decoder transposed where both exist.

    With `same_across_sites`, sites of equal width start with equal rows, so that no latent begins model-specific
    (Minder et al. 2025). Sites that are read but not written get their own random directions. The decoder bias
    starts at `mean_X`, the mean of the normalised activations over all sites, or at zero.
    """
    wiring = crosscoder.wiring
    for group, W_enc, W_dec in zip(wiring.groups, crosscoder.W_enc, crosscoder.W_dec, strict=True):
        rows: dict[int, Tensor] = {}
        written: dict[str, Tensor] = {}
        for site in wiring.layout.subset([*group.writes, *group.reads]).sites:
            if site.width not in rows or not same_across_sites:
                drawn_FD = torch.randn(group.num_latents, site.width, generator=generator)
                rows[site.width] = drawn_FD / drawn_FD.norm(dim=1, keepdim=True) * decoder_norm
            written[site.name] = rows[site.width]
        W_dec.copy_(wiring.layout.subset(group.writes).pack(written))
        W_enc.copy_(wiring.layout.subset(group.reads).pack(written))
    if mean_X is not None:
        columns = wiring.layout.columns(wiring.written.names)
        crosscoder.b_dec_X.copy_(mean_X[columns if isinstance(columns, slice) else columns.to(mean_X.device)])
