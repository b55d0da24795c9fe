"""The acausal crosscoder: every latent reads and writes every site (Lindsey et al. 2024, §2).

Over the layers of one model it is the global crosscoder; over one layer of two models, the model-diffing
crosscoder; over checkpoints of one model, the snapshot crosscoder.
"""

from __future__ import annotations

from attrs import field, frozen
from attrs.validators import ge

from crosscoders import LatentGroup, Site, Wiring


@frozen(kw_only=True)
class AcausalConfig:
    """One group of latents over all sites."""

    num_latents: int = field(default=16_384, validator=ge(1))
    """F, the number of latents; papers use 8 to 32 times the width of a site."""


def acausal(options: AcausalConfig, sites: tuple[Site, ...]) -> Wiring:
    """One group that reads and writes all `sites`."""
    names = tuple(site.name for site in sites)
    return Wiring(sites=sites, groups=(LatentGroup("all", options.num_latents, reads=names, writes=names),))
