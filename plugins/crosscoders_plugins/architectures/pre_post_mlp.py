"""The pre/post-MLP crosscoder: one set of latents for an MLP's input and output (Lindsey et al. 2024, §2.1)."""

from __future__ import annotations

from attrs import field, frozen
from attrs.validators import ge, in_

from crosscoders import ConfigError, LatentGroup, Site, Wiring


@frozen(kw_only=True)
class PrePostMlpConfig:
    """One group of latents over an MLP's input and output."""

    num_latents: int = field(default=16_384, validator=ge(1))
    """F, the number of latents."""
    reads: str = field(default="both", validator=in_(("both", "pre")))
    """Which sites latents read: `both`, or `pre` for the input only, which keeps them causal, as attribution through
    the MLP requires."""


def pre_post_mlp(options: PrePostMlpConfig, sites: tuple[Site, ...]) -> Wiring:
    """One group that writes both sites and reads both, or only the first."""
    if len(sites) != 2:
        raise ConfigError(f"a pre/post-MLP crosscoder has two sites, the MLP's input and its output, not {len(sites)}")
    names = tuple(site.name for site in sites)
    reads = names if options.reads == "both" else names[:1]
    return Wiring(sites=sites, groups=(LatentGroup("all", options.num_latents, reads=reads, writes=names),))
