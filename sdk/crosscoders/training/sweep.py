"""Several crosscoders from one harvest: the models run once, and every batch trains them all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import attrs

from ..crosscoder.module import Crosscoder
from ..errors import ConfigError
from ..files import disk_errors, write_whole
from ..plugins.choices import set_value
from ..plugins.registry import Registry
from .config import RunConfig
from .runner import Runner
from .sweep_report import sweep_report, sweep_rows

SUMMARY = "sweep.json"
SHARED = (
    "models",
    "sites",
    "tokens",
    "tokenizer",
    "activations",
    "device",
    "models_device",
    "cache",
    "trackers",
    "output",
)
"""Keys of the config that cannot be swept, because they decide the batches or belong to the whole sweep."""
SHARED_TRAINING = (
    "num_tokens",
    "batch_size",
    "accumulation",
    "mixed_precision",
    "float32_precision",
    "shards",
    "evaluate_every",
    "evaluation_tokens",
    "save_every",
    "log_every",
)
"""Keys of the config's `training` table that cannot be swept, for the same reasons as those in `SHARED`."""


def sweep_configs(
    config: RunConfig, values: Mapping[str, Sequence[Any]], *, registry: Registry | None = None
) -> list[RunConfig]:
    """Make a config for each combination of `values`, which are lists by dotted key (`loss.k`, `training.seed`).

    Each config writes to its own folder within `config.output`, named after its values, and reads tokens in the order
    of `config`, so that it gives the same result when it is run alone. `ConfigError` names a key that cannot be swept.
    """
    for key, choices in values.items():
        first, _, second = key.partition(".")
        if first in SHARED or (first == "training" and second in SHARED_TRAINING):
            raise ConfigError(f"'{key}' cannot be swept: all crosscoders of a sweep train on the same batches")
        if not choices:
            raise ConfigError(f"'{key}' was given no values to sweep over")
    seed = config.training.seed if config.activations.seed is None else config.activations.seed
    configs = []
    for chosen in product(*values.values()):
        data = config.to_dict()
        data["activations"]["seed"] = seed
        for key, value in zip(values, chosen, strict=True):
            set_value(data, key, value)
        names = [f"{key.rpartition('.')[2]}={_short(value)}" for key, value in zip(values, chosen, strict=True)]
        combined = RunConfig.from_dict(data, registry=registry)
        configs.append(attrs.evolve(combined, output=config.output / (",".join(names) or "run")))
    if len({each.output for each in configs}) < len(configs):
        raise ConfigError("two combinations of this sweep would write to the same folder, because their values agree")
    return configs


def sweep(
    config: RunConfig,
    values: Mapping[str, Sequence[Any]],
    *,
    resume: bool = True,
    quiet: bool = False,
    registry: Registry | None = None,
) -> dict[Path, Crosscoder]:
    """Train a crosscoder for each combination of `values`, all from one harvest; by the folder that each is in.

    `sweep.json` in the output folder has the values and metrics of each, `report.html` draws explained variance against
    L0 and against operations.
    """
    configs = sweep_configs(config, values, registry=registry)
    runner = Runner(*configs, registry=registry)
    runner.run(resume=resume, quiet=quiet)
    found = {run.config.output: run.crosscoder for run in runner.runs}
    if runner.processes.is_main:
        rows = sweep_rows(found, values)
        with disk_errors(config.output):
            config.output.mkdir(parents=True, exist_ok=True)
        write_whole(config.output / SUMMARY, json.dumps(rows, indent=1) + "\n")
        sweep_report(rows).save(config.output)
    return found


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    return "".join(letter if letter.isalnum() or letter in ".-_" else "_" for letter in text)
