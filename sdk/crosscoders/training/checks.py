"""What is refused before the first step, because the trained crosscoder would be of no use, or could not be trained."""

from __future__ import annotations

from ..crosscoder.gates import check_gate, describe_gate
from ..crosscoder.module import Crosscoder
from ..errors import CheckpointError, ConfigError
from ..losses.loss import Loss
from ..plugins.registry import Registry
from .config import RunConfig


def check_loss(config: RunConfig, loss: Loss, crosscoder: Crosscoder, registry: Registry) -> None:
    """`ConfigError` for a loss that cannot be sharded, or that leaves a gate with which nothing could be loaded.

    To be called once the loss is attached to `crosscoder`.
    """
    terms = getattr(config.loss.options, "terms", None)
    if crosscoder.processes.num_shards > 1 and (terms or not loss.shardable):
        raise ConfigError(f"the loss '{config.loss.name}', with its terms, does not support training.shards > 1")
    gate = loss.gate()
    try:
        describe_gate(gate, registry=registry)
        check_gate(gate, crosscoder.num_latents)
    except CheckpointError as error:
        raise ConfigError(
            f"what the loss '{config.loss.name}' trains could not be loaded afterwards: {error}"
        ) from error
