"""Profiles of latents over sites in an order: layers from first to last, or snapshots of training in time.

A profile is a latent's share of decoder norm at each site, p, in units free of width. A null is made by shuffling the
sites of each latent on its own: it keeps how unequal the shares are and takes away where they lie.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from attrs import frozen
from torch import Tensor
from torch.nn import functional

from crosscoders import AnalysisError, Crosscoder

from .norm_classes import norm_share, width_free_norms

LIVE = 0.1
"""Rows below this share of the latent's largest norm have no direction to speak of."""


@frozen(eq=False)
class Profiles:
    """Shares and rows of all latents over some sites, in order."""

    names: tuple[str, ...]
    share_FS: Tensor
    norms_FS: Tensor
    """In units free of width."""
    cosine_FSS: Tensor | None
    """Of a latent's rows at each pair of sites; NaN where a row is small; None where widths differ."""

    @classmethod
    def of(cls, crosscoder: Crosscoder, names: Sequence[str]) -> Profiles:
        """Of a crosscoder over the sites called `names`."""
        written = crosscoder.written.names
        columns = [written.index(name) for name in names]
        norms_FS = width_free_norms(crosscoder)[:, columns].double()
        widths = {site.width for site in crosscoder.written.sites if site.name in names}
        cosine = None
        if len(widths) == 1:
            rows_SFD = torch.stack(
                [functional.normalize(crosscoder.decoder_rows(n).detach().cpu(), dim=1) for n in names]
            )
            cosine = torch.einsum("sfd,tfd->fst", rows_SFD, rows_SFD).double()
            small_FS = norms_FS < LIVE * norms_FS.amax(dim=1, keepdim=True)
            cosine = cosine.masked_fill(small_FS[:, :, None] | small_FS[:, None, :], float("nan"))
        return cls(tuple(names), norm_share(norms_FS), norms_FS, cosine)

    def centre(self, position_S: Tensor) -> Tensor:
        """Centre of mass Σ p·position, (F,)."""
        return self.share_FS @ position_S

    def spread(self, position_S: Tensor) -> Tensor:
        """Standard deviation of the position under p, (F,): 0 for one site."""
        return spread_of(self.share_FS, position_S)

    def drift(self) -> Tensor | None:
        """1 − mean cosine of rows at neighbouring sites, (F,): 0 where the direction stays; NaN where none is known."""
        if self.cosine_FSS is None:
            return None
        return 1 - self.cosine_FSS.diagonal(offset=1, dim1=1, dim2=2).nanmean(dim=1)


def spread_of(share_FS: Tensor, position_S: Tensor) -> Tensor:
    """Standard deviation of the position under shares, (F,)."""
    mean_F = share_FS @ position_S
    square_F = share_FS @ position_S.square() - mean_F.square()
    return square_F.clamp_min(0).sqrt()


def shuffled(value_FS: Tensor, generator: torch.Generator) -> Tensor:
    """The values of each latent in an order of their own."""
    order_FS = torch.rand(value_FS.shape, generator=generator).argsort(dim=1)
    return value_FS.gather(1, order_FS)


def ordered_sites(crosscoder: Crosscoder, chosen: Sequence[str], least: int) -> tuple[str, ...]:
    """The sites to go along: those chosen, in their order, or all that are written. `AnalysisError` for too few."""
    written = crosscoder.written.names
    unknown = [name for name in chosen if name not in written]
    if unknown:
        raise AnalysisError(f"'{unknown[0]}' is not a written site; the written sites are {', '.join(written)}")
    names = tuple(chosen) or written
    if len(names) < least:
        raise AnalysisError(f"profiles need at least {least} sites in an order, and there are {len(names)}")
    return names
