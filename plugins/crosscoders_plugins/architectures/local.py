"""The locally masked ("convolutional") crosscoder: each group sees a window of K neighbouring sites.

Lindsey et al. 2024, §2.1. There are L − K + 1 windows, so that K = 1 is `per_layer_saes` and K = L is `acausal`.
"""

from __future__ import annotations

from attrs import field, frozen
from attrs.validators import ge

from crosscoders import ConfigError, LatentGroup, Site, Wiring

from .shares import dealt


@frozen(kw_only=True)
class LocalConfig:
    """One group of latents for each window of neighbouring sites."""

    num_latents: int = field(default=16_384, validator=ge(1))
    """F, the number of latents of all windows together, divided evenly."""
    window: int = field(default=3, validator=ge(1))
    """K, the number of sites in a window."""


def local(options: LocalConfig, sites: tuple[Site, ...]) -> Wiring:
    """Group l reads and writes sites l to l + K − 1."""
    if options.window > len(sites):
        raise ConfigError(f"a window of {options.window} sites is more than the {len(sites)} there are")
    names = tuple(site.name for site in sites)
    windows = [names[i : i + options.window] for i in range(len(names) - options.window + 1)]
    counts = dealt(options.num_latents, len(windows))
    groups = (LatentGroup(w[0], n, reads=w, writes=w) for w, n in zip(windows, counts, strict=True))
    return Wiring(sites=sites, groups=tuple(groups))
