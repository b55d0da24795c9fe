"""Crosscoders on disk: `config.json`, `model.safetensors`, `README.md`. No pickle, nothing executed, all checked.

The config is untrusted data: it names a plugin, which must already be installed here, and all shapes are compared
before any tensor is read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from ..crosscoder.build import build_crosscoder
from ..crosscoder.gates import gate_from_config
from ..crosscoder.info import CheckpointInfo
from ..crosscoder.module import Crosscoder
from ..crosscoder.sites import Site
from ..devices import find_device
from ..errors import CheckpointError, ConfigError, PluginError
from ..plugins.choices import ArchitectureChoice, structure
from ..plugins.registry import Registry, get_registry
from ..processes import ALONE, Processes
from .local import published
from .own import recall, remember
from .tensors import StoredTensors, save_tensors, shared_folder

FORMAT = 1
CONFIG, WEIGHTS, CARD = "config.json", "model", "README.md"


def save_crosscoder(crosscoder: Crosscoder, folder: Path) -> Path:
    """Write `crosscoder` to `folder` atomically; see `Crosscoder.save_pretrained`."""
    from .card import write_card

    if crosscoder.info is None:
        raise CheckpointError(
            "this crosscoder does not know the name of its architecture; make it with build_crosscoder, or "
            "set crosscoder.info = CheckpointInfo.from_architecture(...)"
        )
    processes = crosscoder.processes
    norms_FS = processes.gather_shards(crosscoder.decoder_norms().detach())
    with shared_folder(folder, processes) as partial:
        save_tensors(partial, WEIGHTS, crosscoder.state_dict(), crosscoder.sharding, processes)
        if processes.shard == 0:
            (partial / CONFIG).write_text(json.dumps(describe(crosscoder), indent=2) + "\n")
            write_card(crosscoder, norms_FS.cpu(), partial)
    if processes.shard == 0:
        remember(folder / CONFIG, crosscoder.info)
    return folder


def describe(crosscoder: Crosscoder) -> dict[str, Any]:
    """The content of `config.json`."""
    info = crosscoder.info
    assert info is not None
    recipe, models = published(info.recipe, info.models)
    return {
        "library": "crosscoders",
        "format": FORMAT,
        "architecture": info.architecture,
        "loss": info.loss,
        "gate": _scaled({"name": crosscoder.gate.name, **crosscoder.gate.options()}, crosscoder.processes.num_shards),
        "sites": [{"name": site.name, "width": site.width} for site in crosscoder.sites],
        "models": models,
        "num_latents": crosscoder.num_latents * crosscoder.processes.num_shards,
        "metrics": info.metrics,
        "recipe": recipe,
        "reading": info.reading,
        "made_with": info.made_with,
        **({"origin": info.origin} if info.origin else {}),
    }


def _scaled(gate: dict[str, Any], factor: float) -> dict[str, Any]:
    """A gate's options for more or fewer latents: a config speaks of all, a process that shares them has its part."""
    scaled = dict(gate)
    if isinstance(count := gate.get("num_latents"), int):
        scaled["num_latents"] = round(count * factor)
    if isinstance(sizes := gate.get("group_sizes"), list):
        scaled["group_sizes"] = [round(size * factor) for size in sizes]
    return scaled


def load_crosscoder(
    folder: Path, *, registry: Registry | None = None, device: str = "cpu", processes: Processes = ALONE
) -> Crosscoder:
    """Read a folder that `save_crosscoder` wrote; `CheckpointError` says what is wrong with any other folder.

    If `processes` shard the latents, each reads its own shard, however many processes wrote the checkpoint.
    """
    registry = registry or get_registry()
    place = find_device(device)
    config = read_config(folder)
    sites = tuple(_site(entry) for entry in _expect(config, "sites", list))
    architecture = _expect(config, "architecture", dict)
    stored = StoredTensors.open(folder, WEIGHTS)
    crosscoder = _build(architecture, sites, registry, stored, processes)
    crosscoder.gate = gate_from_config(_scaled(_expect(config, "gate", dict), 1 / processes.num_shards))
    _load_weights(crosscoder, stored)
    info = CheckpointInfo(
        architecture=architecture,
        **{key: _expect(config, key, dict) for key in ("loss", "models", "recipe", "metrics", "made_with")},
        origin=_expect({"origin": {}, **config}, "origin", dict),
        reading=_expect({"reading": {}, **config}, "reading", dict),
    )
    crosscoder.info = recall(folder / CONFIG, info)
    return crosscoder.to(place).eval()


def read_config(folder: Path) -> dict[str, Any]:
    """Read `config.json` of a saved crosscoder, and check that this library can read its format."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder} is not a saved crosscoder: it has no {CONFIG}") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(f"{folder / CONFIG} cannot be read: {error}") from error
    if not isinstance(config, dict) or config.get("library") != "crosscoders":
        raise CheckpointError(f"{folder / CONFIG} does not describe a crosscoder of this library")
    if config.get("format") != FORMAT:
        raise CheckpointError(f"{folder} has format {config.get('format')!r}; this version reads {FORMAT}")
    known = {
        "library",
        "format",
        "architecture",
        "loss",
        "gate",
        "sites",
        "models",
        "num_latents",
        "metrics",
        "recipe",
        "reading",
        "made_with",
        "origin",
    }
    if set(config) - known:
        raise CheckpointError(f"{folder / CONFIG} has unknown keys {', '.join(sorted(set(config) - known))}")
    return config


def _expect(config: dict[str, Any], key: str, kind: type) -> Any:
    if not isinstance(config.get(key), kind):
        raise CheckpointError(f"{CONFIG} should have a {kind.__name__} at '{key}', not {config.get(key)!r}")
    return config[key]


def _site(entry: Any) -> Site:
    try:
        return Site(entry["name"], entry["width"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{CONFIG} has a malformed site {entry!r}") from error


def _build(
    architecture: dict[str, Any],
    sites: tuple[Site, ...],
    registry: Registry,
    stored: StoredTensors,
    processes: Processes,
) -> Crosscoder:
    folder = stored.folder
    name, plugin = _expect(architecture, "name", str), _expect(architecture, "plugin", str)
    made_by = (
        f"the plugin '{plugin}' of the distribution '{architecture.get('distribution')}' "
        f"version '{architecture.get('version')}'"
    )
    try:
        spec = registry.architectures[f"{plugin}:{name}"].spec
    except PluginError as error:
        # Anyone may have written this file: report the names in it, but never suggest a command to run.
        raise PluginError(
            f"{folder} has the architecture '{name}' of {made_by}, which is not loaded here; if you trust that "
            f"distribution, install it and try again\n  {error}"
        ) from error
    try:
        choice = ArchitectureChoice(
            f"{plugin}:{name}", structure(architecture.get("config"), spec.config.load(), registry=registry)
        )
        # On the meta device: no memory is allocated until the shapes in the file are known to match.
        with torch.device("meta"):
            expected = build_crosscoder(choice, sites, registry=registry).state_dict()
    except ConfigError as error:
        raise CheckpointError(
            f"the config of the architecture '{name}' in {folder} does not fit what is installed; it was saved by "
            f"{made_by}: {error}"
        ) from error
    stored_shapes = {key: shape for key, shape in stored.shapes().items() if not key.startswith("gate.")}
    _compare({key: tuple(value.shape) for key, value in expected.items()}, stored_shapes, stored)
    return build_crosscoder(choice, sites, registry=registry, processes=processes)


def _compare(
    expected: dict[str, tuple[int, ...]], stored_shapes: dict[str, tuple[int, ...]], stored: StoredTensors
) -> None:
    problems = [f"no tensor '{key}'" for key in sorted(expected.keys() - stored_shapes.keys())]
    problems += [f"an unknown tensor '{key}'" for key in sorted(stored_shapes.keys() - expected.keys())]
    problems += [
        f"'{key}' of shape {stored_shapes[key]}, where {CONFIG} implies {shape}"
        for key, shape in expected.items()
        if key in stored_shapes and stored_shapes[key] != shape
    ]
    if problems:
        raise CheckpointError(f"{stored.path} does not fit {CONFIG}: it has {'; '.join(problems)}")


def _load_weights(crosscoder: Crosscoder, stored: StoredTensors) -> None:
    num_shards = crosscoder.processes.num_shards
    sizes = [group.num_latents * num_shards for group in crosscoder.wiring.groups]
    tensors = stored.read(sizes, crosscoder.processes.shard, num_shards, sharding=crosscoder.sharding)
    expected = crosscoder.state_dict()
    _compare(
        {key: tuple(value.shape) for key, value in expected.items()},
        {key: tuple(value.shape) for key, value in tensors.items()},
        stored,
    )
    wrong = [key for key, value in tensors.items() if value.dtype != expected[key].dtype]
    if wrong:
        raise CheckpointError(f"{stored.path} should be in fp32, but {wrong[0]} is {tensors[wrong[0]].dtype}")
    crosscoder.load_state_dict(tensors, strict=True)
