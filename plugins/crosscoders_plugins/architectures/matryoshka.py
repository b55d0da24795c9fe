"""Matryoshka nesting over any architecture: prefixes of every latent group form growing dictionaries.

Bussmann et al. 2025 (arXiv 2503.17547). The wiring remains that of the inner architecture. The loss
`matryoshka_batchtopk` makes each prefix reconstruct by itself; other losses ignore the nesting.
"""

from __future__ import annotations

import attrs
from attrs import field, frozen
from attrs.validators import min_len

from crosscoders import ArchitectureChoice, Crosscoder, Site, Wiring
from crosscoders.converters import as_tuple


@frozen(kw_only=True)
class MatryoshkaConfig:
    """Nested levels over another architecture."""

    of: ArchitectureChoice
    """The architecture to nest, such as `{name = "acausal", num_latents = 4096}`."""
    levels: tuple[float, ...] = field(default=(0.0625, 0.25, 1.0), converter=as_tuple, validator=min_len(2))
    """The levels as increasing shares of each group's latents; the last one is 1."""


def matryoshka(options: MatryoshkaConfig, sites: tuple[Site, ...]) -> Wiring | Crosscoder:
    """The inner architecture's wiring with levels."""
    made = options.of.build(sites)
    if isinstance(made, Crosscoder):
        made.wiring = attrs.evolve(made.wiring, nesting=options.levels)
        return made
    assert isinstance(made, Wiring)
    return attrs.evolve(made, nesting=options.levels)
