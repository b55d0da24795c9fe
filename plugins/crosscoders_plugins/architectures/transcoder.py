"""The transcoder: latents read one site and write another, such as an MLP's input and output (Dunefsky et al. 2024)."""

from __future__ import annotations

from attrs import field, frozen
from attrs.validators import ge

from crosscoders import ConfigError, LatentGroup, Site, Wiring


@frozen(kw_only=True)
class TranscoderConfig:
    """One group of latents from the first site to the second."""

    num_latents: int = field(default=16_384, validator=ge(1))
    """F, the number of latents."""
    skip: bool = False
    """Add an affine map from the read site to the written one (skip transcoder; Paulo et al. 2025)."""


def transcoder(options: TranscoderConfig, sites: tuple[Site, ...]) -> Wiring:
    """One group that reads the first site and writes the second."""
    if len(sites) != 2:
        raise ConfigError(f"a transcoder has two sites, the one it reads and the one it writes, not {len(sites)}")
    read, written = sites
    group = LatentGroup("all", options.num_latents, reads=(read.name,), writes=(written.name,))
    return Wiring(sites=sites, groups=(group,), skip=((read.name, written.name),) if options.skip else ())
