"""The weakly causal crosscoder: a latent of layer l reads layer l (or all layers up to it) and writes layers from l on.

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
    """F, the number of latents of all sites together, divided evenly."""
    reads: str = field(default="own", validator=in_(("own", "up_to")))
    """Which sites group l reads: only site l (`own`), or all sites up to l (`up_to`)."""


def weakly_causal(options: WeaklyCausalConfig, sites: tuple[Site, ...]) -> Wiring:
    """Group l reads site l, or all sites up to l, and writes sites from l on."""
    names = tuple(site.name for site in sites)
    counts = dealt(options.num_latents, len(sites))
    groups = tuple(
        LatentGroup(
            name, counts[i], reads=names[i : i + 1] if options.reads == "own" else names[: i + 1], writes=names[i:]
        )
        for i, name in enumerate(names)
    )
    return Wiring(sites=sites, groups=groups)
