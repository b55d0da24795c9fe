"""The dedicated-feature crosscoder (DFC): some latents belong to one model alone (Jiralerspong and Bricken 2026).

An exclusive latent reads and writes its own model only. Its rows at the other do not exist, so they are exactly zero,
also after every step. A dictionary that must have exclusive latents fills them with something: a model against its own
copy gives live ones, so check them with latent scaling before believing them.
"""

from __future__ import annotations

from attrs import field, frozen
from attrs.validators import and_, ge, gt, lt

from crosscoders import ConfigError, LatentGroup, Site, Wiring

from .shares import models_of


@frozen(kw_only=True)
class DedicatedConfig:
    """One group of exclusive latents for each model, and a shared one."""

    num_latents: int = field(default=16_384, validator=ge(3))
    """F over all groups."""
    exclusive_share: float = field(default=0.05, validator=and_(gt(0.0), lt(0.5)))
    """Share of the latents that each model has for itself. (1–2 % give better shared latents, 5–10 % more exclusive
    ones.)"""


def dedicated(options: DedicatedConfig, sites: tuple[Site, ...]) -> Wiring:
    """Groups named after the models, then `shared`."""
    models = models_of(sites)
    if len(models) < 2:
        raise ConfigError(f"dedicated features need sites in two models or more, not in {', '.join(models)} alone")
    exclusive = max(1, round(options.exclusive_share * options.num_latents))
    shared = options.num_latents - exclusive * len(models)
    if shared < 1:
        raise ConfigError(f"{len(models)} models with {exclusive} exclusive latents each leave no shared one")
    own = {model: tuple(site.name for site in sites if site.model == model) for model in models}
    groups = [LatentGroup(model, exclusive, reads=own[model], writes=own[model]) for model in models]
    names = tuple(site.name for site in sites)
    return Wiring(sites=sites, groups=(*groups, LatentGroup("shared", shared, reads=names, writes=names)))
