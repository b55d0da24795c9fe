"""Designated shared features (DSF): some latents have one decoder row for all models (Mishra-Sharma et al. 2025, §3a).

With the smaller penalty of the loss `dsf` (or the larger k of `delta`), these latents absorb what the models have in
common. Rows are tied between corresponding sites: the i-th site of each model, in the order in which sites are listed.
"""

from __future__ import annotations

from attrs import field, frozen
from attrs.validators import and_, ge, gt, lt

from crosscoders import ConfigError, LatentGroup, Site, Wiring

from .shares import models_of


@frozen(kw_only=True)
class DesignatedSharedConfig:
    """Two groups over all sites, one of them with tied decoder rows."""

    num_latents: int = field(default=16_384, validator=ge(2))
    """F, the number of latents of both groups together."""
    designated_share: float = field(default=0.1, validator=and_(gt(0.0), lt(1.0)))
    """Share of the latents whose rows are tied. The papers tie 4 % and 10 %."""


def designated_shared(options: DesignatedSharedConfig, sites: tuple[Site, ...]) -> Wiring:
    """The group `designated`, whose rows are tied over models, and the group `free`."""
    by_model = {model: [site for site in sites if site.model == model] for model in models_of(sites)}
    if len(by_model) < 2 or len({len(own) for own in by_model.values()}) > 1:
        found = ", ".join(f"{len(own)} in {model}" for model, own in by_model.items())
        raise ConfigError(f"designated shared features need equally many sites in two models or more, not {found}")
    pairs = list(zip(*by_model.values(), strict=True))
    for pair in pairs:
        if len({site.width for site in pair}) > 1:
            raise ConfigError(f"rows at {', '.join(s.name for s in pair)} cannot be tied: the widths differ")
    names = tuple(site.name for site in sites)
    designated = min(options.num_latents - 1, max(1, round(options.designated_share * options.num_latents)))
    return Wiring(
        sites=sites,
        groups=(
            LatentGroup("designated", designated, reads=names, writes=names),
            LatentGroup("free", options.num_latents - designated, reads=names, writes=names),
        ),
        ties=tuple(tuple(("designated", site.name) for site in pair) for pair in pairs),
    )
