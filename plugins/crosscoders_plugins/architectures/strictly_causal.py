"""The strictly causal crosscoder, or cross-layer transcoder: read the residual at l, write layer outputs from l on.

Lindsey et al. 2024, §2.1; Ameisen et al. 2025, "Circuit Tracing". Sites are listed in the order of layers: first all
sites that are read, then as many that are written: `m/layers.0.mlp_input, …, m/layers.0.mlp, …`.
"""

from __future__ import annotations

from attrs import field, frozen
from attrs.validators import ge, in_

from crosscoders import ConfigError, LatentGroup, Site, Wiring

from .shares import dealt


@frozen(kw_only=True)
class StrictlyCausalConfig:
    """One group of latents for each read site."""

    num_latents: int = field(default=16_384, validator=ge(1))
    """F, the number of latents of all layers together, divided evenly."""
    skip: bool = False
    """Add a linear map from each read site to the written site of the same layer (no map leads to earlier layers)."""
    tying: str = field(default="none", validator=in_(("none", "per_source", "per_target")))
    """Which decoder rows are tied. With `per_source`, a latent writes the same row to every layer. With `per_target`,
    the i-th latents of all layers up to a layer write the same row there."""


def strictly_causal(options: StrictlyCausalConfig, sites: tuple[Site, ...]) -> Wiring:
    """Group l reads the l-th read site and writes written sites from the l-th on."""
    if len(sites) % 2:
        raise ConfigError(
            f"a cross-layer transcoder has as many written sites as read ones, listed after them; {len(sites)} is odd"
        )
    layers = len(sites) // 2
    reads, writes = [s.name for s in sites[:layers]], [s.name for s in sites[layers:]]
    counts = dealt(options.num_latents, layers)
    if options.tying == "per_target" and len(set(counts)) > 1:
        raise ConfigError(
            f"tying per target needs equally many latents in each layer; {options.num_latents} is not a "
            f"multiple of {layers}"
        )
    groups = tuple(LatentGroup(reads[i], counts[i], reads=(reads[i],), writes=writes[i:]) for i in range(layers))
    ties: list[list[tuple[str, str]]] = []
    if options.tying == "per_source":
        ties = [[(group.name, site) for site in group.writes] for group in groups]
    elif options.tying == "per_target":
        ties = [[(group.name, site) for group in groups[: i + 1]] for i, site in enumerate(writes)]
    skip = zip(reads, writes, strict=True) if options.skip else ()
    return Wiring(sites=sites, groups=groups, skip=skip, ties=tuple(tuple(tie) for tie in ties if len(tie) > 1))
