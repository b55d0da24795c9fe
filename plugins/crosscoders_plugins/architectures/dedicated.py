"""The dedicated-feature crosscoder (DFC): some latents belong to only one model (Jiralerspong and Bricken 2026).

An exclusive latent reads and writes only its own model. Its rows at the other model do not exist, so they are exactly
zero throughout training. A dictionary with reserved exclusive latents fills them with something: even a model against
its own copy gives live ones, so check them with latent scaling before trusting them.
"""

from __future__ import annotations

from attrs import field, frozen
from attrs.validators import and_, ge, gt, lt

from crosscoders import ConfigError, LatentGroup, Site, Wiring

from .shares import models_of


@frozen(kw_only=True)
class DedicatedConfig:
    """One group of exclusive latents for each model, and one group of shared latents."""

    num_latents: int = field(default=16_384, validator=ge(3))
    """F, the number of latents of all groups together."""
    exclusive_share: float = field(default=0.05, validator=and_(gt(0.0), lt(0.5)))
    """Share of the latents that each model has for itself. 1–2 % give better shared latents, 5–10 % more exclusive
    ones."""


def dedicated(options: DedicatedConfig, sites: tuple[Site, ...]) -> Wiring:
    """A group named after each model, and then the group `shared`."""
    models = models_of(sites)
    if len(models) < 2:
        raise ConfigError(f"dedicated features need sites in two models or more, not only in {', '.join(models)}")
    exclusive = max(1, round(options.exclusive_share * options.num_latents))
    shared = options.num_latents - exclusive * len(models)
    if shared < 1:
        raise ConfigError(f"{len(models)} models with {exclusive} exclusive latents each leave no shared one")
    own = {model: tuple(site.name for site in sites if site.model == model) for model in models}
    groups = [LatentGroup(model, exclusive, reads=own[model], writes=own[model]) for model in models]
    names = tuple(site.name for site in sites)
    return Wiring(sites=sites, groups=(*groups, LatentGroup("shared", shared, reads=names, writes=names)))
