"""The sparse autoencoder: a crosscoder with one site."""

from __future__ import annotations

from attrs import field, frozen
from attrs.validators import ge

from crosscoders import ConfigError, LatentGroup, Site, Wiring


@frozen(kw_only=True)
class SaeConfig:
    """One group of latents over one site."""

    num_latents: int = field(default=16_384, validator=ge(1))
    """F, the number of latents."""


def sae(options: SaeConfig, sites: tuple[Site, ...]) -> Wiring:
    """One group that reads and writes the only site."""
    if len(sites) != 1:
        raise ConfigError(f"a sparse autoencoder has one site, not {len(sites)}; 'acausal' takes any number")
    name = sites[0].name
    return Wiring(sites=sites, groups=(LatentGroup("all", options.num_latents, reads=(name,), writes=(name,)),))
