"""Initialisation of a crosscoder's weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from attrs import field, frozen
from attrs.validators import and_, ge, gt, in_, instance_of, lt
from torch import Tensor

from ..errors import ConfigError
from .gates import Gate
from .module import Crosscoder
from .warm_start import take_crosscoder, take_latents

GEOMETRIC_MEDIAN_ROUNDS = 32


@frozen(kw_only=True)
class InitialisationConfig:
    """How the weights are initialised. Norms are in normalised space."""

    encoder: str = field(default="transpose", validator=in_(("transpose", "random")))
    """How encoder rows start. `transpose` copies the decoder's rows at sites that a latent both reads and writes;
    `random` draws independent directions."""
    encoder_scale: float = field(default=1.0, validator=gt(0.0))
    """Length of encoder rows relative to decoder rows. At 1, as in the literature, a latent over S similar sites first
    writes S times what it reads. 1/S starts closer to the target, which helps short runs, but leaves more latents dead
    in planted worlds."""
    decoder_norm: float = field(default=0.0, validator=ge(0.0))
    """Norm of decoder rows at each site; 0 uses the loss's default."""
    same_across_sites: bool = True
    """Start with equal rows at sites of equal width, so that no latent starts site-specific (Minder et al. 2025)."""
    decoder_bias: str = field(default="mean", validator=in_(("mean", "geometric_median", "zero")))
    """Where each site's decoder bias starts: the mean or geometric median of the calibration tokens, or zero."""
    firing_rate: float = field(default=0.0, validator=and_(ge(0.0), lt(1.0)))
    """Set encoder biases so that each latent fires on this share of the calibration tokens; 0 leaves them at zero.
    Anthropic's January 2025 update uses 10,000 over the number of latents."""
    from_saes: Mapping[str, str] = field(factory=dict)
    """Sites to trained autoencoders (folder or Hub id, of any known format) whose latents these start as; what is left
    over starts at random (after Gemma Scope 2)."""
    duplicate_response: float = field(default=0.7, validator=gt(0.0))
    """When latents are copied from autoencoders, a latent is skipped as a duplicate if one copied earlier excites its
    encoder at least this fraction as much as its own decoder row does."""
    from_crosscoder: str = field(default="", validator=instance_of(str))
    """A trained crosscoder of the same architecture (folder or Hub id) to start from: its weights, its normaliser, so
    that the first step sees the function that was trained, and the thresholds of its gate where the loss has such."""

    def __attrs_post_init__(self) -> None:
        if self.from_crosscoder and (self.from_saes or self.firing_rate):
            raise ConfigError(
                "initialisation.from_crosscoder sets all weights and biases; leave from_saes and firing_rate out"
            )


@torch.no_grad()
def initialise(
    crosscoder: Crosscoder,
    config: InitialisationConfig | None = None,
    *,
    decoder_norm: float,
    generator: torch.Generator,
    mean_X: Tensor | None = None,
    sample_BX: Tensor | None = None,
    firing_threshold: float = 0.0,
) -> Gate | None:
    """Initialise the weights: random decoder directions of norm `decoder_norm` at each site, unless `config` differs.

    `mean_X` is the mean of the normalised activations over all sites and `sample_BX` a sample of them; `ConfigError` if
    `config` needs one that is not given. A latent counts as firing above `firing_threshold`. Returns the gate of the
    crosscoder that `config` starts from, if it names one.
    """
    config = config or InitialisationConfig()
    if config.from_crosscoder:
        return take_crosscoder(crosscoder, config.from_crosscoder)
    norm = config.decoder_norm or decoder_norm
    wiring = crosscoder.wiring
    for index, group in enumerate(wiring.groups):
        written = _directions(crosscoder, group.num_latents, {*group.writes, *group.reads}, config, generator)
        read = written
        if config.encoder == "random":
            read = _directions(crosscoder, group.num_latents, set(group.reads), config, generator)
        crosscoder.set_weights(
            index,
            config.encoder_scale * norm * wiring.layout.subset(group.reads).pack(read),
            norm * wiring.layout.subset(group.writes).pack(written),
        )
    crosscoder.b_enc_F.zero_()
    crosscoder.b_dec_X.copy_(_decoder_bias(crosscoder, config, mean_X, sample_BX))
    if config.from_saes:
        if crosscoder.processes.num_shards > 1:
            raise ConfigError("initialisation.from_saes needs all latents in one process: training.shards must be 1")
        take_latents(
            crosscoder,
            config.from_saes,
            duplicate_response=config.duplicate_response,
            norm=norm,
            spread=config.same_across_sites,
        )
    if config.firing_rate:
        pre_BF = crosscoder.pre_activations(_needed(sample_BX, "firing_rate").to(crosscoder.device))
        cut_F = torch.quantile(pre_BF.float(), 1 - config.firing_rate, dim=0)
        crosscoder.b_enc_F.add_(firing_threshold - cut_F.to(crosscoder.b_enc_F))
    return None


def _directions(
    crosscoder: Crosscoder, count: int, names: set[str], config: InitialisationConfig, generator: torch.Generator
) -> dict[str, Tensor]:
    """Draw random unit rows (count, D) at each site, equal at sites of equal width if so configured."""
    rows: dict[int, Tensor] = {}
    by_site: dict[str, Tensor] = {}
    for site in crosscoder.layout.subset(sorted(names)).sites:
        if site.width not in rows or not config.same_across_sites:
            # Draw the rows of all latents and keep this process's, so that the shards together equal a single process.
            processes = crosscoder.processes
            drawn_FD = torch.randn(count * processes.num_shards, site.width, generator=generator)
            drawn_FD = drawn_FD.chunk(processes.num_shards)[processes.shard]
            rows[site.width] = drawn_FD / drawn_FD.norm(dim=1, keepdim=True)
        by_site[site.name] = rows[site.width]
    return by_site


def _decoder_bias(
    crosscoder: Crosscoder, config: InitialisationConfig, mean_X: Tensor | None, sample_BX: Tensor | None
) -> Tensor:
    written = crosscoder.written.names
    columns = crosscoder.layout.columns(written)
    if config.decoder_bias == "mean" and mean_X is not None:
        return mean_X[columns if isinstance(columns, slice) else columns.to(mean_X.device)]
    if config.decoder_bias == "geometric_median":
        sites = crosscoder.layout.unpack(_needed(sample_BX, "decoder_bias = 'geometric_median'"))
        return torch.cat([_geometric_median(sites[name]) for name in written])
    return torch.zeros_like(crosscoder.b_dec_X)


def _needed(sample_BX: Tensor | None, option: str) -> Tensor:
    if sample_BX is None:
        raise ConfigError(f"initialisation with {option} needs a sample of activations")
    return sample_BX


def _geometric_median(x_BD: Tensor) -> Tensor:
    """The point with the smallest sum of distances to the rows, by Weiszfeld's iteration."""
    median_D = x_BD.mean(dim=0)
    for _ in range(GEOMETRIC_MEDIAN_ROUNDS):
        weight_B = 1 / (x_BD - median_D).norm(dim=1).clamp_min(1e-8)
        median_D = (weight_B[:, None] * x_BD).sum(dim=0) / weight_B.sum()
    return median_D
