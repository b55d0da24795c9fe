"""What makes a run this run: what a later call must share with it, and what its crosscoder says of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from ..crosscoder.info import CheckpointInfo, component_record, needs_of
from ..plugins.registry import Registry
from .config import RunConfig
from .evaluate import Metrics


def checkpoint_info(
    config: RunConfig,
    registry: Registry,
    models: Mapping[str, Any],
    metrics: Metrics | None,
    reading: Mapping[str, Any],
) -> CheckpointInfo:
    """What a crosscoder that a run has trained knows of the run."""
    recipe = config.to_dict()
    for key in ("output", "cache", "models_device"):
        del recipe[key]
    return CheckpointInfo(
        architecture=component_record(config.architecture, registry),
        loss=component_record(config.loss, registry),
        models={key: {**models[key], "config": recipe["models"].get(key)} for key in models},
        recipe=recipe,
        reading=dict(reading),
        metrics=attrs.asdict(metrics) if metrics else {},
        needs=needs_of(config, registry),
        own=True,
    )


def chosen(config: RunConfig) -> dict[str, Any]:
    """What the config has watch and measure the run, beside `identity`."""
    data = config.to_dict()
    return {key: data[key] for key in ("observers", "metrics")}


def identity(config: RunConfig) -> dict[str, Any]:
    """The config that a resumed run must share: everything but where it writes and what observes it."""
    data = config.to_dict()
    for key in ("output", "trackers", "observers", "metrics", "requires", "cache", "models_device"):
        del data[key]
    for key in ("save_every", "keep_checkpoints", "evaluate_every", "log_every", "shards"):
        del data["training"][key]
    del data["activations"]["prefetch"]
    # The same latents are found either way.
    data["loss"].pop("preselect", None)
    return data
