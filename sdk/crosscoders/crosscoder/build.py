"""Building a crosscoder from the name of its architecture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..devices import memory_errors
from ..errors import ConfigError
from ..plugins.choices import ArchitectureChoice, structure
from ..plugins.registry import Registry
from ..processes import ALONE, Processes
from .info import CheckpointInfo
from .module import Crosscoder
from .sites import Site


def build_crosscoder(
    architecture: str | Mapping[str, Any] | ArchitectureChoice,
    sites: Iterable[Site],
    *,
    registry: Registry | None = None,
    processes: Processes = ALONE,
    **options: Any,
) -> Crosscoder:
    """Build a crosscoder whose weights are zero: `build_crosscoder("acausal", sites, num_latents=4096)`.

    `architecture` is a name, with its `options` as keywords; a table `{"name": ..., **options}`; or an
    `ArchitectureChoice`. If `processes` shard the latents, each builds its own shard. Raises `ConfigError` if the
    options or the sites do not suit the architecture, and `PluginError` if no plugin offers it.
    """
    if isinstance(architecture, str):
        architecture = {"name": architecture, **options}
    elif options:
        raise ConfigError(
            f"options ({', '.join(options)}) go with the name of an architecture, not with {architecture}"
        )
    choice = structure(architecture, ArchitectureChoice, registry=registry)
    with memory_errors(f"the weights of this '{choice.name}' crosscoder", "take fewer latents, or shard them"):
        built = choice.build(tuple(sites), registry=registry)
        crosscoder = built if isinstance(built, Crosscoder) else Crosscoder(built, processes)
    if crosscoder is built and processes.num_shards > 1:
        raise ConfigError(f"the architecture '{choice.name}' cannot be sharded: training.shards must be 1")
    crosscoder.info = CheckpointInfo.from_architecture(choice, registry=registry)
    return crosscoder
