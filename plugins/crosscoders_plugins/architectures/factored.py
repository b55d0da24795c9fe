"""The factored crosscoder: each latent's rows over the sites have low rank (after fmxcoders, arXiv 2605.09438).

The row of latent i at site s is d_i^s = Σ_r a_irs u_ir, and likewise for the encoder. Rank 1 is one direction with a
weight for each site; rank S does not restrict anything. A latent of low rank cannot read one site and write unrelated
rows elsewhere, which makes it coherent over layers. The paper adds `site_masking = 0.05` (an option of every loss).
"""

from __future__ import annotations

import torch
from attrs import field, frozen
from attrs.validators import ge
from torch import Tensor, nn

from crosscoders import ConfigError, Crosscoder, LatentGroup, Site, Wiring


@frozen(kw_only=True)
class FactoredConfig:
    """One group of latents over all sites, which must have one width."""

    num_latents: int = field(default=16_384, validator=ge(1))
    """F, the number of latents."""
    rank: int = field(default=1, validator=ge(1))
    """Number of directions per latent, in the encoder and in the decoder; at most the number of sites."""


class FactoredCrosscoder(Crosscoder):
    """A crosscoder whose parameters are weights over sites `a` (F, R, S) and directions `u` (F, R, D) instead of
    rows."""

    def __init__(self, wiring: Wiring, rank: int) -> None:
        super().__init__(wiring)
        self.rank = rank

    def make_weights(self) -> None:
        self.a_enc, self.u_enc = nn.ParameterList(), nn.ParameterList()
        self.a_dec, self.u_dec = nn.ParameterList(), nn.ParameterList()
        width = self.sites[0].width
        for group in self.wiring.groups:
            shape = (group.num_latents, self.rank)
            self.a_enc.append(torch.zeros(*shape, len(group.reads)))
            self.a_dec.append(torch.zeros(*shape, len(group.writes)))
            self.u_enc.append(torch.zeros(*shape, width))
            self.u_dec.append(torch.zeros(*shape, width))

    def encoder_weight(self, number: int) -> Tensor:
        return _rows(self.a_enc[number], self.u_enc[number])

    def decoder_weight(self, number: int) -> Tensor:
        return _rows(self.a_dec[number], self.u_dec[number])

    @torch.no_grad()
    def set_weights(self, number: int, W_enc: Tensor, W_dec: Tensor) -> None:
        """Set the best rank-R approximation in the least-squares sense, its scale split evenly between `a` and `u`."""
        for rows, a, u in ((W_enc, self.a_enc, self.u_enc), (W_dec, self.a_dec, self.u_dec)):
            per_site = rows.view(len(rows), a[number].shape[2], -1)
            left, size, right = torch.linalg.svd(per_site.float(), full_matrices=False)
            root = size[:, : self.rank].sqrt()
            a[number].copy_((left[:, :, : self.rank] * root[:, None, :]).transpose(1, 2))
            u[number].copy_(right[:, : self.rank] * root[:, :, None])


def factored(options: FactoredConfig, sites: tuple[Site, ...]) -> FactoredCrosscoder:
    """One group that reads and writes all `sites`."""
    widths = {site.width for site in sites}
    if len(widths) > 1:
        raise ConfigError(f"a factored crosscoder needs sites of one width, not of {sorted(widths)}")
    if options.rank > len(sites):
        raise ConfigError(f"a rank of {options.rank} is more than the {len(sites)} sites allow")
    names = tuple(site.name for site in sites)
    groups = (LatentGroup("all", options.num_latents, reads=names, writes=names),)
    return FactoredCrosscoder(Wiring(sites=sites, groups=groups), options.rank)


def _rows(a_FRS: Tensor, u_FRD: Tensor) -> Tensor:
    with torch.autocast(a_FRS.device.type, enabled=False):  # norms and gradients need rows in full precision
        return torch.einsum("frs,frd->fsd", a_FRS, u_FRD).flatten(1)
