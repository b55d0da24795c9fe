"""Crosscoders on disk: `config.json`, `model.safetensors`, `README.md`. No pickle, nothing executed, all checked.

The config is untrusted data: it names a plugin, which must already be installed here, and all shapes are compared
before any tensor is read.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..crosscoder.build import build_crosscoder
from ..crosscoder.explanations import EXPLANATIONS, Explanations, read_explanations, write_explanations
from ..crosscoder.gates import check_gate, describe_gate, gate_from_config
from ..crosscoder.info import CheckpointInfo, need
from ..crosscoder.module import Crosscoder
from ..crosscoder.sites import Site
from ..devices import find_device
from ..errors import CheckpointError, CrosscodersError, PluginError, listed
from ..plugins.choices import ArchitectureChoice, structure
from ..plugins.registry import Registry, get_registry
from ..privacy.local import published
from ..processes import ALONE, Processes
from ..reading import finite
from .description import CONFIG, FORMAT, check_unchanged, description_checksum, read_config, sites_of
from .own import forget, recall, remember
from .tensors import StoredTensors, link_tensors, save_tensors, shared_folder

__all__ = ["CARD", "CONFIG", "WEIGHTS", "describe", "load_crosscoder", "read_config", "save_crosscoder"]

logger = logging.getLogger(__name__)

WEIGHTS, CARD = "model", "README.md"
CAST = (torch.float16, torch.bfloat16, torch.float64)
"""Types of weights that are read as fp32, apart from fp32 itself."""


def save_crosscoder(
    crosscoder: Crosscoder, folder: Path, *, registry: Registry | None = None, weights_are_there: bool = False
) -> Path:
    """Write `crosscoder` to `folder` atomically; see `Crosscoder.save_pretrained`.

    With `weights_are_there`, `folder` has the same weights already, and only the rest is written anew.
    """
    from .card import write_card

    if crosscoder.info is None:
        raise CheckpointError(
            "this crosscoder does not know the name of its architecture; make it with build_crosscoder, or "
            "set crosscoder.info = CheckpointInfo.from_architecture(...)"
        )
    processes = crosscoder.processes
    description = describe(crosscoder, registry=registry)
    norms_FS = processes.gather_shards(crosscoder.decoder_norms().detach())
    with shared_folder(folder, processes) as partial:
        if not weights_are_there:
            save_tensors(partial, WEIGHTS, crosscoder.state_dict(), crosscoder.sharding, processes)
        elif processes.shard == 0:
            link_tensors(folder, WEIGHTS, partial)
        if processes.shard == 0:
            if weights_are_there:
                forget(folder / CONFIG)
            (partial / CONFIG).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
            drawn_in = folder if weights_are_there else None
            if crosscoder.info.explanations:
                sites = [site["name"] for site in description["sites"]]
                write_explanations(partial / EXPLANATIONS, crosscoder.info.explanations, sites)
            write_card(crosscoder, norms_FS.cpu().float(), description.get("needs", []), partial, drawn_in=drawn_in)
    if processes.shard == 0:
        remember(folder / CONFIG, crosscoder.info)
    return folder


def describe(crosscoder: Crosscoder, *, registry: Registry | None = None) -> dict[str, Any]:
    """The content of `config.json`."""
    info = crosscoder.info
    assert info is not None
    recipe, models = published(info.recipe, info.models)
    description = {
        "library": "crosscoders",
        "format": FORMAT,
        "architecture": info.architecture,
        "loss": info.loss,
        "gate": _scaled(describe_gate(crosscoder.gate, registry=registry), times=crosscoder.processes.num_shards),
        "sites": [{"name": site.name, "width": site.width} for site in crosscoder.sites],
        "models": models,
        "num_latents": crosscoder.num_latents * crosscoder.processes.num_shards,
        "metrics": finite(info.metrics),
        "recipe": recipe,
        "reading": info.reading,
        **({"needs": needs} if (needs := _needs(crosscoder, registry or get_registry())) else {}),
        "made_with": info.made_with,
        **({"origin": info.origin} if info.origin else {}),
    }
    try:
        plain: dict[str, Any] = json.loads(json.dumps(description))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"this crosscoder's info cannot be written as JSON: {error}") from error
    return {**plain, "checksum": description_checksum(plain)}


def _needs(crosscoder: Crosscoder, registry: Registry) -> list[dict[str, str]]:
    """What loading this crosscoder, or training it again, needs of other distributions."""
    info = crosscoder.info
    assert info is not None
    architecture = {
        "component": f"architecture '{info.architecture['name']}'",
        **{key: info.architecture[key] for key in ("plugin", "distribution", "version")},
    }
    gate = describe_gate(crosscoder.gate, registry=registry)["name"]
    gates = [need(offer) for offer in registry.gates.offers if offer.qualified_name == gate]
    ours = architecture["distribution"] == "crosscoders"
    entries = [*([] if ours else [architecture]), *gates, *info.needs]
    return list({(each["component"], each["plugin"]): each for each in entries}.values())


def _scaled(gate: dict[str, Any], *, times: int = 1, over: int = 1) -> dict[str, Any]:
    """A gate's options with `num_latents` scaled: a config counts all latents, a process only those of its shard."""
    scaled = dict(gate)
    if type(count := gate.get("num_latents")) is int:
        scaled["num_latents"] = count * times // over
    if type(sizes := gate.get("group_sizes")) is list:
        scaled["group_sizes"] = [size * times // over if type(size) is int else size for size in sizes]
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
    stored = StoredTensors.open(folder, WEIGHTS)
    gate = _scaled(config["gate"], over=processes.num_shards)
    sites = sites_of(config)
    choice, _ = _described(config, sites, registry, stored)
    crosscoder = build_crosscoder(choice, sites, registry=registry, processes=processes)
    crosscoder.gate = gate_from_config(gate, registry=registry)
    total = crosscoder.num_latents * processes.num_shards
    if total != config["num_latents"]:
        raise CheckpointError(
            f"{folder / CONFIG} has num_latents {config['num_latents']}, but its architecture {total}"
        )
    check_gate(crosscoder.gate, crosscoder.num_latents)
    check_unchanged(config, folder)
    _load_weights(crosscoder, stored)
    info = CheckpointInfo(
        **{key: config[key] for key in ("architecture", "loss", "models", "recipe", "metrics", "made_with")},
        reading=config.get("reading", {}),
        needs=config.get("needs", []),
        origin=config.get("origin", {}),
        explanations=_explanations(folder, total),
    )
    crosscoder.info = recall(folder / CONFIG, info)
    return crosscoder.to(place).eval()


def _explanations(folder: Path, num_latents: int) -> Explanations:
    """What stands beside the weights; a file that is damaged is left out with a warning, as nothing depends on it."""
    try:
        return read_explanations(folder / EXPLANATIONS, num_latents, CheckpointError)
    except FileNotFoundError:
        return {}
    except CheckpointError as error:
        logger.warning("%s; the crosscoder is loaded without explanations", error)
        return {}


def checked_folder(
    folder: Path, *, registry: Registry | None = None
) -> tuple[StoredTensors, list[int], Mapping[str, str]]:
    """A saved folder whose config fits its tensors, by their headers: the tensors, latents of groups, and sharding.

    `CheckpointError` says what is wrong with any other folder.
    """
    config, stored = read_config(folder), StoredTensors.open(folder, WEIGHTS)
    _, made = _described(config, sites_of(config), registry or get_registry(), stored)
    check_unchanged(config, folder)
    return stored, [group.num_latents for group in made.wiring.groups], made.sharding


def _described(
    config: dict[str, Any], sites: tuple[Site, ...], registry: Registry, stored: StoredTensors
) -> tuple[ArchitectureChoice, Crosscoder]:
    """What the config describes, without memory for weights, after a comparison with the shapes of the tensors."""
    folder, architecture = stored.folder, config["architecture"]
    name, plugin = architecture["name"], architecture["plugin"]
    made_by = (
        f"the plugin '{plugin}' of the distribution '{architecture['distribution']}' "
        f"version '{architecture['version']}'"
    )
    try:
        options = registry.architectures[f"{plugin}:{name}"].config_class()
    except PluginError as error:
        # Anyone may have written this file: report the names in it, but never suggest a command to run.
        raise PluginError(
            f"{folder} has the architecture '{name}' of {made_by}, which is not loaded here; if you trust that "
            f"distribution, install it and try again\n  {error}"
        ) from error
    try:
        choice = ArchitectureChoice(f"{plugin}:{name}", structure(architecture["config"], options, registry=registry))
        # On the meta device: no memory is allocated until the shapes in the file are known to match.
        with torch.device("meta"):
            made = build_crosscoder(choice, sites, registry=registry)
            made.gate = gate_from_config(config["gate"], registry=registry)
            expected = made.state_dict()
    except CheckpointError as error:
        plugin, _, gate = config["gate"]["name"].rpartition(":")
        if not plugin or not isinstance(error.__cause__, PluginError):
            raise
        known = [each for each in config.get("needs", []) if each["component"] == f"gate '{gate}'"]
        by = f" of the distribution '{known[0]['distribution']}' version '{known[0]['version']}'" if known else ""
        raise PluginError(
            f"{folder} has the gate '{gate}' of the plugin '{plugin}'{by}, which is not loaded here; if you trust that "
            f"distribution, install it and try again\n  {error}"
        ) from error
    except (CrosscodersError, RuntimeError, TypeError, OverflowError) as error:  # torch's, of impossible sizes
        raise CheckpointError(
            f"the config of the architecture '{name}' in {folder} does not fit what is installed; it was saved by "
            f"{made_by}: {error}"
        ) from error
    _compare({key: tuple(value.shape) for key, value in expected.items()}, stored.shapes(), stored)
    return choice, made


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
        raise CheckpointError(f"{stored.path} does not fit {CONFIG}: it has {listed(problems)}")


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
    _check_types(expected, tensors, stored)
    crosscoder.load_state_dict(tensors, strict=True)


def _check_types(expected: dict[str, torch.Tensor], tensors: dict[str, torch.Tensor], stored: StoredTensors) -> None:
    """Weights are in fp32, or were saved in another precision all together."""
    others = {key: value.dtype for key, value in tensors.items() if value.dtype != expected[key].dtype}
    if not others:
        return
    floating = {value.dtype for key, value in tensors.items() if expected[key].is_floating_point()}
    if len(floating) > 1 or not floating <= set(CAST) or any(not expected[key].is_floating_point() for key in others):
        key = next(iter(others))
        raise CheckpointError(
            f"{stored.path} should be in fp32, or all of it in one of {', '.join(map(str, CAST))}, but '{key}' is "
            f"{others[key]}"
        )
    logger.warning("%s is in %s; its weights are cast to fp32", stored.path, floating.pop())
