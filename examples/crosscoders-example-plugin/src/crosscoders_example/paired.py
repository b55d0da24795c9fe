"""Architecture `paired`: a table of two rows is all it takes."""

from attrs import field, frozen
from attrs.validators import ge

from crosscoders import ConfigError, LatentGroup, Wiring


@frozen(kw_only=True)
class PairedConfig:
    shared_latents: int = field(default=64, validator=ge(1))
    """Latents that read and write every site."""
    extra_latents: int = field(default=16, validator=ge(1))
    """Latents that read and write the last site alone."""


def paired(options, sites):
    if len(sites) < 2:
        raise ConfigError(f"'paired' needs two sites or more, not {len(sites)}")
    names = tuple(site.name for site in sites)
    return Wiring(
        sites=sites,
        groups=(
            LatentGroup("shared", options.shared_latents, reads=names, writes=names),
            LatentGroup("extra", options.extra_latents, reads=names[-1:], writes=names[-1:]),
        ),
    )
