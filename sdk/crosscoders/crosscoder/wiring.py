"""The wiring: which latents read which sites and write which sites. Every crosscoder variant is such a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from itertools import pairwise

from attrs import evolve, field, frozen
from attrs.validators import ge, instance_of, min_len

from ..converters import as_tuple
from ..errors import ConfigError, listed, nearest
from .sites import Site, SiteLayout


@frozen
class LatentGroup:
    """Latents with the same reads and writes."""

    name: str
    num_latents: int = field(validator=[instance_of(int), ge(1)])
    reads: tuple[str, ...] = field(converter=as_tuple, validator=min_len(1))
    """Names of the sites that these latents read, that is, that their encoder sees."""
    writes: tuple[str, ...] = field(converter=as_tuple, validator=min_len(1))
    """Names of the sites that these latents write, that is, help to reconstruct."""


DecoderBlock = tuple[str, str]
"""A decoder block: the rows of one latent group (by name) at one site (by name)."""


SkipBlock = tuple[str, str]
"""A block of the skip connection: the site that it reads and the site that it writes."""


def as_pairs(value: Iterable[Iterable[str]]) -> tuple[SkipBlock, ...]:
    """Converter of `Wiring.skip`."""
    return tuple((read, written) for read, written in value)


def as_ties(value: Iterable[Iterable[DecoderBlock]]) -> tuple[tuple[DecoderBlock, ...], ...]:
    """Convert nested iterables to the tuples of `Wiring.ties`."""
    return tuple(tuple((group, site) for group, site in tie) for tie in value)


@frozen(kw_only=True)
class Wiring:
    """Sites, and the latent groups over them. Latents are numbered consecutively through the groups."""

    sites: tuple[Site, ...] = field(converter=as_tuple)
    groups: tuple[LatentGroup, ...] = field(converter=as_tuple, validator=min_len(1))
    skip: tuple[SkipBlock, ...] = field(default=(), converter=as_pairs)
    """Pairs (site, written site) that a linear map leads between, past the latents (skip transcoders)."""
    ties: tuple[tuple[DecoderBlock, ...], ...] = field(default=(), converter=as_ties)
    """Sets of decoder blocks that share the same rows; the first block of each set holds them."""
    nesting: tuple[float, ...] = field(default=(), converter=as_tuple)
    """Matryoshka levels, as increasing shares of every group's latents that end at 1; empty if there are none."""

    def __attrs_post_init__(self) -> None:
        names = [group.name for group in self.groups]
        if len(set(names)) < len(names):
            raise ConfigError(f"two latent groups share a name in {listed(names, ', ')}")
        known = set(self.layout.names)
        for group in self.groups:
            if not known.issuperset(group.reads) or not known.issuperset(group.writes):
                self.layout.subset((*group.reads, *group.writes))  # says which is unknown
        self._check_ties()
        self._check_skip()
        if self.nesting and (
            any(low >= high for low, high in pairwise((0.0, *self.nesting))) or self.nesting[-1] != 1.0
        ):
            raise ConfigError(f"nesting must be increasing shares that end at 1, not {self.nesting}")
        unused = set(self.layout.names) - set(self.read.names) - set(self.written.names)
        if unused:
            raise ConfigError(f"no latent reads or writes site {listed(sorted(unused), ', ')}")

    @cached_property
    def layout(self) -> SiteLayout:
        """The layout of all sites, which are the columns of the crosscoder's input."""
        return SiteLayout(self.sites)

    @cached_property
    def read(self) -> SiteLayout:
        """The layout of the sites that at least one group reads."""
        return self.layout.subset([name for group in self.groups for name in group.reads])

    @cached_property
    def written(self) -> SiteLayout:
        """The layout of the sites that at least one group writes, which are the columns of the output."""
        return self.layout.subset([name for group in self.groups for name in group.writes])

    @property
    def num_latents(self) -> int:
        """F, the number of latents of all groups."""
        return sum(group.num_latents for group in self.groups)

    @cached_property
    def latent_slices(self) -> Mapping[str, slice]:
        """The range of latent indices of each group, by name."""
        slices, start = {}, 0
        for group in self.groups:
            slices[group.name] = slice(start, start + group.num_latents)
            start += group.num_latents
        return slices

    def group(self, name: str) -> LatentGroup:
        """Look up a group by name; `ConfigError` lists the names if there is no such group."""
        place = self._places.get(name)
        if place is None:
            there = listed([group.name for group in self.groups], ", ")
            raise ConfigError(
                f"no latent group is called '{name}'{nearest(name, self._places) or ';'} available: {there}"
            )
        return self.groups[place]

    @cached_property
    def _places(self) -> Mapping[str, int]:
        return {group.name: place for place, group in enumerate(self.groups)}

    def shard(self, count: int) -> Wiring:
        """The wiring of one of `count` processes that hold equal shards of every group's latents.

        Raises `ConfigError` if the latents cannot be split evenly.
        """
        if count == 1:
            return self
        if self.nesting:
            raise ConfigError("nested latents cannot be sharded over processes: training.shards must be 1")
        uneven = [group.name for group in self.groups if group.num_latents % count]
        if uneven:
            raise ConfigError(f"training.shards = {count} does not divide the latents of group {listed(uneven, ', ')}")
        return evolve(self, groups=tuple(evolve(g, num_latents=g.num_latents // count) for g in self.groups))

    @cached_property
    def owners(self) -> Mapping[DecoderBlock, DecoderBlock]:
        """For each tied decoder block, the block that holds its rows."""
        return {block: tie[0] for tie in self.ties for block in tie}

    def owned(self, group: LatentGroup) -> tuple[str, ...]:
        """The sites at which `group` holds its own decoder rows, in column order."""
        writes = self.layout.subset(group.writes).names
        blocks = [(group.name, site) for site in writes]
        return tuple(block[1] for block in blocks if self.owners.get(block, block) == block)

    def level_sizes(self, group: LatentGroup) -> tuple[int, ...]:
        """The number of latents of `group` that each Matryoshka level adds to the previous one."""
        edges = [round(share * group.num_latents) for share in (0.0, *(self.nesting or (1.0,)))]
        return tuple(high - low for low, high in pairwise(edges))

    # -- costs; times are for one token, and a multiplication with an addition counts as two operations -------------

    @property
    def num_weights(self) -> int:
        """Weights without biases: the blocks in the table, tied ones once, and the skip map."""
        widths = {site.name: site.width for site in self.sites}
        total = sum(widths[read] * widths[written] for read, written in self.skip)
        for group in self.groups:
            total += group.num_latents * self.layout.subset(group.reads).width
            total += group.num_latents * sum(widths[name] for name in self.owned(group))
        return total

    @property
    def encoder_flops_per_token(self) -> int:
        """Operations of the dense encoder product."""
        return 2 * sum(group.num_latents * self.layout.subset(group.reads).width for group in self.groups)

    def decoder_flops_per_token(self, active: float | None = None) -> int:
        """Operations of decoding all latents, or `active` latents spread over the groups by their size."""
        dense = 2 * sum(group.num_latents * self.layout.subset(group.writes).width for group in self.groups)
        return dense if active is None else round(dense * active / self.num_latents)

    def training_flops_per_token(self, active: float | None = None) -> int:
        """Operations of the matrix products of a training step.

        Dense losses pay the decoder's product three times (forward, gradient of weights, gradient of values) and the
        encoder's twice, since nothing needs the gradient of its input. With `active` latents per token only the
        encoder's forward product is dense.
        """
        encode, decode = self.encoder_flops_per_token, self.decoder_flops_per_token(active)
        backward = encode if active is None else round(encode * active / self.num_latents)
        return encode + backward + 3 * decode

    def _check_skip(self) -> None:
        for block in self.skip:
            read, written = block
            if self.skip.count(block) > 1:
                raise ConfigError(f"the skip block from {read} to {written} is listed twice")
            if read not in self.layout.names or written not in self.written.names:
                raise ConfigError(
                    f"a skip block leads from {read} to {written}; it must lead from a site of this crosscoder "
                    f"({', '.join(self.layout.names)}) to one that latents write ({', '.join(self.written.names)})"
                )

    def _check_ties(self) -> None:
        blocks = [block for tie in self.ties for block in tie]
        if len(set(blocks)) < len(blocks):
            raise ConfigError("a decoder block is tied twice")
        widths = {site.name: site.width for site in self.sites}
        writes = {group.name: set(group.writes) for group in self.groups}
        for tie in self.ties:
            shapes = set()
            for name, site in tie:
                group = self.group(name)
                if site not in writes[name]:
                    raise ConfigError(f"latent group '{name}' does not write {site}, so its rows there cannot be tied")
                shapes.add((group.num_latents, widths[site]))
            if len(shapes) > 1:
                blocks_of_tie = listed([str(block) for block in tie], ", ")
                raise ConfigError(f"tied decoder blocks must have one shape; {blocks_of_tie} have {sorted(shapes)}")
