"""The wiring: which latents read which sites and write which sites. Every crosscoder variant is such a table."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from attrs import field, frozen
from attrs.validators import ge, instance_of, min_len

from .attributes import as_tuple
from .errors import ConfigError
from .sites import Site, SiteLayout


@frozen
class LatentGroup:
    """Latents with the same reads and writes."""

    name: str
    num_latents: int = field(validator=[instance_of(int), ge(1)])
    reads: tuple[str, ...] = field(converter=as_tuple, validator=min_len(1))
    """Names of the sites that the encoder of these latents sees."""
    writes: tuple[str, ...] = field(converter=as_tuple, validator=min_len(1))
    """Names of the sites that these latents reconstruct."""


@frozen(kw_only=True)
class Wiring:
    """Sites, and the latent groups over them; latents are numbered through the groups in order."""

    sites: tuple[Site, ...] = field(converter=as_tuple)
    groups: tuple[LatentGroup, ...] = field(converter=as_tuple, validator=min_len(1))
    skip: bool = False
    """Add an affine map from all read sites to all written ones (skip transcoders)."""

    def __attrs_post_init__(self) -> None:
        names = [group.name for group in self.groups]
        if len(set(names)) < len(names):
            raise ConfigError(f"two latent groups share a name in {', '.join(names)}")
        for group in self.groups:
            self.layout.subset(group.reads)
            self.layout.subset(group.writes)
        unused = set(self.layout.names) - set(self.read.names) - set(self.written.names)
        if unused:
            raise ConfigError(f"no latent reads or writes site {', '.join(sorted(unused))}")

    @cached_property
    def layout(self) -> SiteLayout:
        """All sites, the columns of the crosscoder's input."""
        return SiteLayout(self.sites)

    @cached_property
    def read(self) -> SiteLayout:
        """The sites that some group reads."""
        return self.layout.subset([name for group in self.groups for name in group.reads])

    @cached_property
    def written(self) -> SiteLayout:
        """The sites that some group writes, the columns of the crosscoder's output."""
        return self.layout.subset([name for group in self.groups for name in group.writes])

    @property
    def num_latents(self) -> int:
        """F, over all groups."""
        return sum(group.num_latents for group in self.groups)

    @cached_property
    def latent_slices(self) -> Mapping[str, slice]:
        """The latent numbers of each group."""
        slices, start = {}, 0
        for group in self.groups:
            slices[group.name] = slice(start, start + group.num_latents)
            start += group.num_latents
        return slices

    @property
    def num_weights(self) -> int:
        """Weights without biases: the blocks in the table, and the skip map."""
        blocks = sum(
            group.num_latents * (self.layout.subset(group.reads).width + self.layout.subset(group.writes).width)
            for group in self.groups
        )
        return blocks + (self.read.width * self.written.width if self.skip else 0)

    @property
    def encoder_flops_per_token(self) -> int:
        """Floating-point operations of the dense encoder product for one token, a multiply and an add as two."""
        return 2 * sum(group.num_latents * self.layout.subset(group.reads).width for group in self.groups)
