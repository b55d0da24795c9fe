"""OpenMOSS' Language-Model-SAEs (llamascopium): `config.json` with `sae_weights.safetensors` (or `.pt`).

Sparse autoencoders and transcoders `W_E` (d, F), `W_D` (F, d); crosscoders (heads, d, F), (heads, F, d); cross-layer
transcoders `W_E` (L, d, F), `W_D.{t}` (t+1, F, d). Latents are compared times their decoder norm if the config says so.
"""

from __future__ import annotations

from typing import Any

import torch

from crosscoders import CheckpointError, CheckpointFormat
from crosscoders.authoring import Answers, Blueprint, GatePlan, GroupPlan, Slot, Source, TensorFile

from .common import exp, flag, hook_site, integer, text, texts, total

CONFIG, OLDER = "config.json", "hyperparams.json"
LOGS, NORM = "activation_function.log_jumprelu_threshold", "dataset_average_activation_norm."
ACTIVATIONS = ("relu", "jumprelu", "topk", "batchtopk", "layertopk")


class Openmoss(CheckpointFormat):
    """Reader."""

    name = "openmoss"

    def __init__(self, options: object) -> None:
        pass

    def detect(self, source: Source) -> bool:
        return (CONFIG in source and "sae_type" in source.json(CONFIG)) or _is_older(source)

    def inspect(self, source: Source, answers: Answers) -> Blueprint:
        if _is_older(source):
            raise CheckpointError(
                f"{source.name} has the older layout of this library ({OLDER} and checkpoints/), which is not read; "
                "SAELens reads it, and what it saves is read here"
            )
        config = source.json(CONFIG)
        path = next((p for p in ("sae_weights.safetensors", "sae_weights.pt") if p in source), "")
        if not path:
            raise CheckpointError(f"{source.name} has neither sae_weights.safetensors nor sae_weights.pt")
        file = source.tensors(path)
        kind, activation = text(config, "sae_type", CONFIG), text(config, "act_fn", CONFIG, default="relu")
        layout = {"sae": _single, "transcoder": _single, "crosscoder": _heads, "clt": _layers}.get(kind)
        if layout is None:
            refused = f"its sae_type is {kind!r}, which is not a sum of decoder rows over sites"
            width = integer(config, "d_model", CONFIG)
            return Blueprint(format=self.name, family=str(kind), slots=(Slot(key="0", width=width),), refused=refused)
        if activation not in ACTIVATIONS:
            raise CheckpointError(f"{CONFIG} says act_fn = {activation!r}; known are {', '.join(ACTIVATIONS)}")
        width = integer(config, "d_model", CONFIG)
        if "W_E" not in file:
            raise CheckpointError(f"{path} has no tensor 'W_E'")
        latents = file["W_E"].shape[-1] if file["W_E"].shape else 0
        factor = config.get("expansion_factor")
        if isinstance(factor, int | float) and not abs(width * factor - latents) < 1:
            raise CheckpointError(f"{CONFIG} means {width * factor:g} latents, but 'W_E' in {path} has {latents}")
        slots, groups, biases = layout(config, file, width, latents)
        gate, refused = _gate(config, file, str(kind), str(activation))
        scales, unknown, cannot = _scales(config, file, slots)
        return Blueprint(
            format=self.name,
            family={"sae": "sparse autoencoder", "clt": "cross-layer transcoder"}.get(str(kind), str(kind))
            if len({slot.key for slot in slots}) != 2 or kind != "sae"
            else "transcoder",
            version=f"{activation}, norms {_norms(config)}",
            slots=slots,
            groups=groups,
            decoder_bias=biases,
            gate=gate,
            scales=scales,
            unknown_scales=unknown,
            dtype=file["W_E"].dtype,
            size=sum(tensor.size for tensor in file.values()),
            config={CONFIG: config},
            refused=refused or cannot,
        )


def _is_older(source: Source) -> bool:
    return OLDER in source and CONFIG not in source and {"d_model", "d_sae"} <= set(source.json(OLDER))


_Layout = tuple[list[Slot], list[GroupPlan], dict[str, Any]]


def _take(config: dict[str, Any], file: TensorFile, shapes: dict[str, tuple[int, ...]], logs: tuple[int, ...]) -> None:
    if text(config, "act_fn", CONFIG) == "jumprelu":
        shapes = {**shapes, LOGS: logs}
    norms = tuple(name for name in file if name.startswith(NORM))
    file.take(
        *shapes,
        optional=(*norms, *(("W_E_glu", "b_E_glu") if flag(config, "use_glu_encoder", CONFIG, default=False) else ())),
    )
    file.expect(shapes, CONFIG)


def _single(config: dict[str, Any], file: TensorFile, width: int, latents: int) -> _Layout:
    bias = flag(config, "use_decoder_bias", CONFIG, default=True)
    shapes: dict[str, tuple[int, ...]] = {"W_E": (width, latents), "W_D": (latents, width), "b_E": (latents,)}
    _take(config, file, {**shapes, **({"b_D": (width,)} if bias else {})}, (latents,))
    hooks = [text(config, f"hook_point_{way}", CONFIG) for way in ("in", "out")]
    same = hooks[0] == hooks[1] or not hooks[1]
    keys = [hooks[0] or "0", hooks[0] or "0"] if same else hooks
    slots = [Slot(key=key, width=width, site=hook_site(key) if hooks[0] else "") for key in dict.fromkeys(keys)]
    group = GroupPlan(
        name="all",
        num_latents=latents,
        reads={keys[0]: file["W_E"].T},
        writes={keys[1]: file["W_D"][:]},
        bias=file["b_E"].load,
        threshold=exp(file[LOGS][:]) if LOGS in file else None,
    )
    return slots, [group], {keys[1]: (file["b_D"].load,)} if bias else {}


def _heads(config: dict[str, Any], file: TensorFile, width: int, latents: int) -> _Layout:
    hooks = texts(config, "hook_points", CONFIG)
    count = len(hooks)
    shapes: dict[str, tuple[int, ...]] = {
        "W_E": (count, width, latents),
        "W_D": (count, latents, width),
        "b_E": (count, latents),
    }
    bias = flag(config, "use_decoder_bias", CONFIG, default=True)
    _take(config, file, {**shapes, **({"b_D": (count, width)} if bias else {})}, (count, latents))
    group = GroupPlan(
        name="all",
        num_latents=latents,
        reads={hook: file["W_E"][n].T for n, hook in enumerate(hooks)},
        writes={hook: file["W_D"][n] for n, hook in enumerate(hooks)},
        bias=total(file["b_E"][n] for n in range(count)),
    )
    slots = [Slot(key=hook, width=width, site=hook_site(hook)) for hook in hooks]
    return slots, [group], {hook: (file["b_D"][n].load,) for n, hook in enumerate(hooks)} if bias else {}


def _layers(config: dict[str, Any], file: TensorFile, width: int, latents: int) -> _Layout:
    ins, outs = (texts(config, f"hook_points_{way}", CONFIG) for way in ("in", "out"))
    count = len(ins)
    if len(outs) != count or not count:
        raise CheckpointError(f"{CONFIG} names {count} hook points in and {len(outs)} out")
    shapes: dict[str, tuple[int, ...]] = {"W_E": (count, width, latents), "b_E": (count, latents)}
    bias = flag(config, "use_decoder_bias", CONFIG, default=True)
    for t in range(count):
        shapes[f"W_D.{t}"] = (t + 1, latents, width)
        if bias:
            shapes[f"b_D.{t}"] = (width,)
    _take(config, file, shapes, (count, latents))
    groups = [
        GroupPlan(
            name=f"layer{s}",
            num_latents=latents,
            reads={ins[s]: file["W_E"][s].T},
            writes={outs[t]: file[f"W_D.{t}"][s] for t in range(s, count)},
            bias=file["b_E"][s].load,
            threshold=exp(file[LOGS][s]) if LOGS in file else None,
        )
        for s in range(count)
    ]
    slots = [Slot(key=hook, width=width, site=hook_site(hook)) for hook in (*ins, *outs)]
    return slots, groups, {outs[t]: (file[f"b_D.{t}"].load,) for t in range(count)} if bias else {}


def _gate(config: dict[str, Any], file: TensorFile, kind: str, activation: str) -> tuple[GatePlan, str]:
    scaled = flag(config, "sparsity_include_decoder_norm", CONFIG, default=True)
    if flag(config, "use_glu_encoder", CONFIG, default=False):
        return GatePlan(), "its encoder is gated (glu): latents are a product of two linear maps"
    if kind == "crosscoder" and activation != "relu":
        return GatePlan(), f"its {activation} acts on each head by itself, so a latent may be on at one site only"
    if activation == "relu":
        return GatePlan(), ""
    if activation == "jumprelu":
        return GatePlan(name="jumprelu", divisor=(1.0, 0.0) if scaled else (0.0, 0.0)), ""
    if activation == "topk" and kind != "clt":
        return GatePlan(name="topk", k=integer(config, "top_k", CONFIG), by="score" if scaled else "activation"), ""
    return (
        GatePlan(),
        f"its {activation} keeps what is largest in a batch or over layers, without a threshold in the file",
    )


def _norms(config: dict[str, Any]) -> str:
    return text(config, "norm_activation", CONFIG, default="dataset-wise")


def _scales(
    config: dict[str, Any], file: TensorFile, slots: list[Slot]
) -> tuple[dict[str, float], tuple[str, ...], str]:
    """Scales, slots without one, and why there can be none. Norms that were never set are saved as chance has them."""
    how = _norms(config)
    if how == "inference":
        return {}, (), ""
    if how != "dataset-wise":
        return {}, (), f"it normalises each token or batch by itself (norm_activation = {how!r}), ours by site"
    scales, unknown = {}, []
    for slot in slots:
        name = f"{NORM}{slot.key}"
        norm = float(file[name].item()) if name in file else float("nan")
        if torch.isfinite(torch.tensor(norm)) and 1e-3 <= norm <= 1e6:
            scales[slot.key] = slot.width**0.5 / norm
        else:
            unknown.append(slot.key)
    return scales, tuple(unknown), ""
