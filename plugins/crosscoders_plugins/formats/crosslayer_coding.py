"""curt-tigges' crosslayer-coding: cross-layer transcoders with decoders untied, tied per source, or tied per target.

`encoder_module.encoders.{i}`, `decoder_module.decoders.{s->t | s | t}` (d, F), `theta_manager.log_threshold` (L, F).
Every pair of layers has a bias of its own, and they add up. The model works on normalised activations.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import torch
from torch import Tensor

from crosscoders import CheckpointError, CheckpointFormat
from crosscoders.authoring import Answers, Blueprint, GatePlan, GroupPlan, Rows, Slot, Source, TensorFile, Vector, View

from .common import exp, flag, hook_site, integer, named_model, only_weights, text
from .standardise import Columns, standardised

CONFIG = "cfg.json"
ENCODER, DECODER = "encoder_module.encoders.{}", "decoder_module.decoders.{}"


class CrosslayerCoding(CheckpointFormat):
    """Reader."""

    name = "crosslayer_coding"

    def __init__(self, options: object) -> None:
        pass

    def detect(self, source: Source) -> bool:
        path = only_weights(source, ".safetensors")
        return bool(path) and CONFIG in source and f"{ENCODER.format(0)}.weight" in source.tensors(path)

    def inspect(self, source: Source, answers: Answers) -> Blueprint:
        path = only_weights(source, ".safetensors")
        file, config = source.tensors(path), source.json(CONFIG)
        layers, latents, width = (integer(config, key, CONFIG) for key in ("num_layers", "num_features", "d_model"))
        encoders = sum(name.startswith("encoder_module.encoders.") and name.endswith(".weight") for name in file)
        if encoders != layers:
            raise CheckpointError(f"{CONFIG} says num_layers = {layers}, but {path} has {encoders} encoders")
        tying = text(config, "decoder_tying", CONFIG, default="none")
        if tying not in ("none", "per_source", "per_target"):
            raise CheckpointError(f"{CONFIG} says decoder_tying = {tying!r}; known are none, per_source, per_target")
        gate, refused = _gate(config, file, path)
        refused = refused or _offsets(file)
        _check(file, config, tying, layers, latents, width, gate)
        groups, biases = _groups(file, tying, layers, latents, gate)
        skip = _skip(file, config, tying, layers)
        normalised = text(config, "normalization_method", CONFIG, default="none") != "none"
        inputs, outputs = _statistics(source, layers) if normalised else ({}, {})
        slots = _slots(config, layers, width)
        blueprint = Blueprint(
            format=self.name,
            family="cross-layer transcoder",
            version=f"decoder tying {tying}",
            slots=slots,
            groups=groups,
            decoder_bias=biases,
            skip=skip,
            ties=_ties(tying, layers),
            gate=gate,
            # The model works on normalised activations; their statistics lie beside the weights, or nowhere.
            unknown_scales=tuple(slot.key for slot in slots) if normalised and not inputs else (),
            models=named_model(config, "model_name", CONFIG),
            dtype=file[f"{ENCODER.format(0)}.weight"].dtype,
            size=sum(tensor.size for tensor in file.values()),
            config={CONFIG: config},
            refused=refused,
        )
        return standardised(blueprint, inputs, outputs)


def _decoder(tying: str, source: int, target: int) -> str:
    key = {"none": f"{source}->{target}", "per_source": str(source), "per_target": str(target)}[tying]
    return DECODER.format(key)


def _gate(config: dict[str, Any], file: TensorFile, path: str) -> tuple[GatePlan, str]:
    activation = text(config, "activation_fn", CONFIG, default="jumprelu")
    if activation == "relu":
        return GatePlan(), ""
    if activation == "jumprelu":
        if "theta_manager.log_threshold" not in file:
            raise CheckpointError(f"{CONFIG} says jumprelu, but {path} has no tensor 'theta_manager.log_threshold'")
        return GatePlan(name="jumprelu"), ""
    if activation in ("batchtopk", "topk"):
        return GatePlan(), (
            f"its activation is {activation} without thresholds, which ranks latents over the batch; convert "
            "it to jumprelu with its own tools first"
        )
    raise CheckpointError(f"{CONFIG} says activation_fn = {activation!r}; known are relu, jumprelu, batchtopk, topk")


def _offsets(file: TensorFile) -> str:
    for name in file:
        if ".feature_offset." in name and bool(file[name].load().any()):
            return f"'{name}' is not zero: an active latent writes a constant beside its activation"
    return ""


def _check(
    file: TensorFile, config: dict[str, Any], tying: str, layers: int, latents: int, width: int, gate: GatePlan
) -> None:
    pairs = [(s, t) for s in range(layers) for t in range(s, layers)]
    shapes: dict[str, tuple[int, ...]] = {}
    for n in range(layers):
        shapes |= {f"{ENCODER.format(n)}.weight": (latents, width), f"{ENCODER.format(n)}.bias_param": (latents,)}
    for s, t in pairs:
        name = _decoder(tying, s, t)
        shapes |= {f"{name}.weight": (width, latents), f"{name}.bias_param": (width,)}
    if flag(config, "skip_connection", CONFIG, default=False):
        stem = "decoder_module.skip_weights"
        keys = [f"{s}->{t}" for s, t in pairs] if tying == "none" else [str(t) for t in range(layers)]
        shapes |= {f"{stem}.{key}": (width, width) for key in keys}
    if gate.name == "jumprelu":
        shapes["theta_manager.log_threshold"] = (layers, latents)
    others = tuple(name for name in file if re.search(r"feature_(?:offset|scale)\.|theta_manager\.(?!log)", name))
    file.take(*shapes, optional=others)
    shapes |= {name: (latents,) for name in others if re.search(r"feature_(?:offset|scale)\.", name)}
    file.expect(shapes, CONFIG)


def _groups(
    file: TensorFile, tying: str, layers: int, latents: int, gate: GatePlan
) -> tuple[list[GroupPlan], dict[str, tuple[Vector, ...]]]:
    groups = []
    biases: dict[str, tuple[Vector, ...]] = {f"out.{n}": () for n in range(layers)}
    for s in range(layers):
        writes: dict[str, Rows] = {}
        for t in range(s, layers):
            name = _decoder(tying, s, t)
            view = file[f"{name}.weight"].T
            scale = f"decoder_module.feature_scale.{name.rpartition('.')[2]}"
            writes[f"out.{t}"] = view.scaled(rows=file[scale].load) if scale in file else view
            if tying != "per_target" or s == 0:  # one decoder for a target is applied once
                biases[f"out.{t}"] += (file[f"{name}.bias_param"].load,)
        groups.append(
            GroupPlan(
                name=f"layer{s}",
                num_latents=latents,
                reads={f"in.{s}": file[f"{ENCODER.format(s)}.weight"][:]},
                writes=writes,
                bias=file[f"{ENCODER.format(s)}.bias_param"].load,
                threshold=exp(file["theta_manager.log_threshold"][s]) if gate.name == "jumprelu" else None,
            )
        )
    return groups, biases


def _skip(file: TensorFile, config: dict[str, Any], tying: str, layers: int) -> dict[tuple[str, str], View]:
    if not flag(config, "skip_connection", CONFIG, default=False):
        return {}
    stem = "decoder_module.skip_weights"
    if tying != "none":
        return {(f"in.{t}", f"out.{t}"): file[f"{stem}.{t}"][:] for t in range(layers)}
    return {(f"in.{s}", f"out.{t}"): file[f"{stem}.{s}->{t}"][:] for s in range(layers) for t in range(s, layers)}


def _ties(tying: str, layers: int) -> list[list[tuple[str, str]]]:
    """As in the file; scaled rows of one tie are scaled alike, by the key that they share."""
    if tying == "per_source":
        return [[(f"layer{s}", f"out.{t}") for t in range(s, layers)] for s in range(layers - 1)]
    if tying == "per_target":
        return [[(f"layer{s}", f"out.{t}") for s in range(t + 1)] for t in range(1, layers)]
    return []


def _statistics(source: Source, layers: int) -> tuple[dict[str, Columns], dict[str, Columns]]:
    """Means and stds of inputs and outputs by slot, of the file beside the weights."""
    if "norm_stats.json" not in source:
        return {}, {}
    stats = source.json("norm_stats.json")
    found: tuple[dict[str, Columns], dict[str, Columns]] = {}, {}
    for n in range(layers):
        for kept, way, name in zip(found, ("in", "out"), ("inputs", "outputs"), strict=True):
            try:
                mean, std = (torch.tensor(stats[str(n)][name][key]).float().flatten() for key in ("mean", "std"))
            except (KeyError, TypeError, ValueError) as error:
                raise CheckpointError(f"norm_stats.json has no mean and std of the {name} of layer {n}") from error
            if not bool(torch.isfinite(mean).all() and torch.isfinite(std).all()) or bool((std <= 0).any()):
                raise CheckpointError(f"norm_stats.json has a mean or std of the {name} of layer {n} that cannot be")
            kept[f"{way}.{n}"] = Columns(partial(_same, mean), partial(_same, std))
    return found


def _same(value: Tensor) -> Tensor:
    return value


def _slots(config: dict[str, Any], layers: int, width: int) -> list[Slot]:
    slots = []
    for way, key in (("in", "input"), ("out", "output")):
        template = text(config, f"mlp_{key}_template", CONFIG) or text(config, f"tl_{key}_template", CONFIG)
        for n in range(layers):
            hook = template.replace("{}", str(n)).replace("{layer}", str(n))
            slots.append(
                Slot(
                    key=f"{way}.{n}",
                    width=width,
                    site=hook_site(hook) if template else "",
                    what=f"layer {n}, {hook or key}",
                    example=f"model/layers.{n}.{'mlp_input' if way == 'in' else 'mlp'}",
                )
            )
    return slots
