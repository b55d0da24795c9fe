"""The weakly causal crosscoder: a latent of layer l reads it (or layers up to it) and writes layers from l on.

Lindsey et al. 2024, §2.1; Gemma Scope 2 (2025) trained it on four depths. Sites are listed in the order of layers.
"""

from __future__ import annotations

from attrs import field, frozen
from attrs.validators import ge, in_

from crosscoders import LatentGroup, Site, Wiring

from .shares import dealt


@frozen(kw_only=True)
class WeaklyCausalConfig:
    """One group of latents for each site."""

    num_latents: int = field(default=16_384, validator=ge(1))
    """F over all sites, dealt out evenly."""
    reads: str = field(default="own", validator=in_(("own", "up_to")))
    """Group l reads site l alone (`own`) or all sites up to it (`up_to`)."""


def weakly_causal(options: WeaklyCausalConfig, sites: tuple[Site, ...]) -> Wiring:
    """Group l reads site l, or those up to l, and writes sites from l on."""
    names = tuple(site.name for site in sites)
    counts = dealt(options.num_latents, len(sites))
    groups = tuple(
        LatentGroup(
            name, counts[i], reads=names[i : i + 1] if options.reads == "own" else names[: i + 1], writes=names[i:]
        )
        for i, name in enumerate(names)
    )
    return Wiring(sites=sites, groups=groups)
