"""Dealing latents out to groups."""

from __future__ import annotations

from crosscoders import ConfigError, Site


def dealt(num_latents: int, num_groups: int) -> list[int]:
    """`num_latents` over `num_groups` as evenly as they go, the first groups getting the rest."""
    if num_latents < num_groups:
        raise ConfigError(f"{num_latents} latents cannot be dealt out to {num_groups} groups")
    each, rest = divmod(num_latents, num_groups)
    return [each + (number < rest) for number in range(num_groups)]


def models_of(sites: tuple[Site, ...]) -> list[str]:
    """The models that `sites` are in, in order."""
    return list(dict.fromkeys(site.model for site in sites))
