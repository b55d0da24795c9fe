"""Dividing latents among groups."""

from __future__ import annotations

from crosscoders import ConfigError, Site


def dealt(num_latents: int, num_groups: int) -> list[int]:
    """Divide `num_latents` among `num_groups` as evenly as possible; the first groups get the remainder."""
    if num_latents < num_groups:
        raise ConfigError(f"{num_latents} latents are too few for {num_groups} groups")
    each, rest = divmod(num_latents, num_groups)
    return [each + (number < rest) for number in range(num_groups)]


def models_of(sites: tuple[Site, ...]) -> list[str]:
    """The models of `sites`, in order of first appearance."""
    return list(dict.fromkeys(site.model for site in sites))
