"""One sparse autoencoder for each site, as one object: the baseline that crosscoders are compared with.

With a loss that is a sum over latents and sites (`l1`), or that selects within each group (`scope = "group"`), losses
and gradients are those of separate autoencoders (tested).
"""

from __future__ import annotations

from attrs import field, frozen
from attrs.validators import ge

from crosscoders import LatentGroup, Site, Wiring

from .shares import dealt


@frozen(kw_only=True)
class PerLayerSaesConfig:
    """One group of latents for each site, which reads and writes it."""

    num_latents: int = field(default=16_384, validator=ge(1))
    """F, the number of latents of all sites together, divided evenly."""


def per_layer_saes(options: PerLayerSaesConfig, sites: tuple[Site, ...]) -> Wiring:
    """Group l reads and writes site l."""
    counts = dealt(options.num_latents, len(sites))
    groups = (LatentGroup(s.name, n, reads=(s.name,), writes=(s.name,)) for s, n in zip(sites, counts, strict=True))
    return Wiring(sites=sites, groups=tuple(groups))
