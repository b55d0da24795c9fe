"""The explicit architecture: its config is the wiring table itself. Checkpoints of other libraries come in as this."""

from __future__ import annotations

from attrs import field, frozen
from attrs.validators import min_len

from crosscoders import LatentGroup, Site, Wiring
from crosscoders.converters import as_tuple


@frozen(kw_only=True)
class ExplicitConfig:
    """The latent groups with their reads and writes, and what else a wiring has."""

    groups: tuple[LatentGroup, ...] = field(converter=as_tuple, validator=min_len(1))
    """Each `{name, num_latents, reads, writes}`, the last two as lists of sites; sizes may differ."""
    skip: tuple[tuple[str, str], ...] = field(default=(), converter=as_tuple)
    """Pairs of a site and a written site that a linear map leads between, past the latents."""
    ties: tuple[tuple[tuple[str, str], ...], ...] = field(default=(), converter=as_tuple)
    """Sets of decoder blocks (group, site) that share their rows; the first of each set holds them."""
    nesting: tuple[float, ...] = field(default=(), converter=as_tuple)
    """Matryoshka levels as growing shares of every group's latents, the last one 1."""


def explicit(options: ExplicitConfig, sites: tuple[Site, ...]) -> Wiring:
    """The wiring that the config spells out."""
    return Wiring(sites=sites, groups=options.groups, skip=options.skip, ties=options.ties, nesting=options.nesting)
