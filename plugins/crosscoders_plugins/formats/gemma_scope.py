"""Gemma Scope 1 (`params.npz`) and 2 (`params.safetensors`, `params_layer_{i}.safetensors`), by Google DeepMind.

`w_enc` (d, F), `w_dec` (F, d), or (F, targets, d) over several layers; f = relu(x W + b) above the threshold.
Much is said by names of folders alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from crosscoders import CheckpointError, CheckpointFormat
from crosscoders.authoring import (
    Answers,
    Blueprint,
    GatePlan,
    GroupPlan,
    Question,
    Slot,
    Source,
    TensorFile,
    View,
)

from .common import hook_site, named_model, text

CONFIG = "config.json"
PLAIN = ("w_enc", "w_dec", "b_enc", "b_dec", "threshold")
SKIP = "affine_skip_connection"
_POINTS = {"resid_post": "", "res": "", "attn_out": ".attention", "att": ".attention", "mlp_out": ".mlp", "mlp": ".mlp"}


class GemmaScope1(CheckpointFormat):
    """Reader of Gemma Scope 1: sparse autoencoders and transcoders."""

    name = "gemma_scope_1"

    def __init__(self, options: object) -> None:
        pass

    def detect(self, source: Source) -> bool:
        return "params.npz" in source and {"W_enc", "W_dec", "threshold"} <= set(source.tensors("params.npz"))

    def inspect(self, source: Source, answers: Answers) -> Blueprint:
        file = source.tensors("params.npz")
        file.take("W_enc", "W_dec", "b_enc", "b_dec", "threshold")
        kind, questions = _kind(source.name, {}, answers)
        layer = _layer(source.name)
        point = next((_POINTS[word] for word in re.findall(r"pt-(res|att|mlp)\b", source.name)), None)
        return _one(self.name, file, ("W_enc", "W_dec"), kind, questions, layer, point, {})


class GemmaScope2(CheckpointFormat):
    """Reader of Gemma Scope 2: sparse autoencoders, transcoders, cross-layer transcoders, weakly causal crosscoders."""

    name = "gemma_scope_2"

    def __init__(self, options: object) -> None:
        pass

    def detect(self, source: Source) -> bool:
        path = next((p for p in ("params.safetensors", "params_layer_0.safetensors") if p in source), "")
        return bool(path) and set(PLAIN) <= set(source.tensors(path))

    def inspect(self, source: Source, answers: Answers) -> Blueprint:
        config = source.json(CONFIG) if CONFIG in source else {}
        if text(config, "architecture", CONFIG, default="jump_relu") != "jump_relu":
            raise CheckpointError(f"{CONFIG} says architecture = {config['architecture']!r}; known is jump_relu")
        if "params.safetensors" not in source:
            return _layers(self.name, source, config, answers)
        file = source.tensors("params.safetensors")
        file.take(*PLAIN, optional=(SKIP,))
        kind, questions = _kind(source.name, config, answers, SKIP in file)
        read, written = (text(config, f"hf_hook_point_{way}", CONFIG) for way in ("in", "out"))
        point = next((_POINTS[word] for word in re.findall(r"(resid_post|attn_out|mlp_out)", source.name)), None)
        return _one(
            self.name, file, ("w_enc", "w_dec"), kind, questions, _layer(source.name), point, config, read, written
        )


def _kind(name: str, config: dict[str, Any], answers: Answers, skip: bool = False) -> tuple[str, list[Question]]:
    """Whether it reconstructs what it reads."""
    why = "neither files nor folder names say whether it is a sparse autoencoder or a transcoder"
    question = Question(key="kind", text=why, example="sae", choices=("sae", "transcoder"))
    if "kind" not in answers.others:
        read, written = (text(config, f"hf_hook_point_{way}", CONFIG) for way in ("in", "out"))
        if skip or "transcoder" in name or (read and written and read != written):
            return "transcoder", []
        if read or re.search(r"resid_post|attn_out|mlp_out|-res\b|-att\b|-mlp\b", name):
            return "sae", []
    return answers.to(question), [question]


def _layer(name: str) -> str:
    found = re.findall(r"layer_(\d+)", name)
    return found[-1] if found else ""


def _one(
    name: str,
    file: TensorFile,
    matrices: tuple[str, str],
    kind: str,
    questions: list[Question],
    layer: str,
    point: str | None,
    config: dict[str, Any],
    hook_in: str = "",
    hook_out: str = "",
) -> Blueprint:
    """A sparse autoencoder or a transcoder of one layer."""
    W_enc, W_dec = (file[key] for key in matrices)
    width, latents = file.matrix(matrices[0])
    file.expect(
        {matrices[1]: (latents, width), "b_enc": (latents,), "b_dec": (width,), "threshold": (latents,)}, "the encoder"
    )
    transcoder = kind == "transcoder"
    sites = [hook_site(hook) if hook else "" for hook in (hook_in, hook_out)]
    if layer and not sites[0]:
        sites = [f"model/layers.{layer}.mlp_input", f"model/layers.{layer}.mlp"]
        if not transcoder:
            sites = ["" if point is None else f"model/layers.{layer}{point}", ""]
    slots = [Slot(key="in" if transcoder else "0", width=width, site=sites[0], what=f"layer {layer}" if layer else "")]
    if transcoder:
        slots.append(Slot(key="out", width=width, site=sites[1], what=f"layer {layer}" if layer else ""))
    read, written = slots[0].key, slots[-1].key
    group = GroupPlan(
        name="all",
        num_latents=latents,
        reads={read: W_enc.T},
        writes={written: W_dec[:]},
        bias=file["b_enc"].load,
        threshold=file["threshold"].load,
    )
    return Blueprint(
        format=name,
        family="transcoder" if transcoder else "sparse autoencoder",
        slots=slots,
        groups=(group,),
        decoder_bias={written: (file["b_dec"].load,)},
        skip={(read, written): file[SKIP].T} if SKIP in file else {},
        gate=GatePlan(name="jumprelu"),
        questions=questions,
        models=named_model(config, "model_name", CONFIG),
        dtype=W_enc.dtype,
        size=sum(tensor.size for tensor in file.values()),
        config={CONFIG: config} if config else {},
        assumed=("layer and place are read off the names of folders",) if layer and not hook_in else (),
    )


def _layers(name: str, source: Source, config: dict[str, Any], answers: Answers) -> Blueprint:
    """A cross-layer transcoder or a weakly causal crosscoder: each file is a source layer with its targets."""
    numbers = sorted(
        int(found[1]) for path in source.files if (found := re.fullmatch(r"params_layer_(\d+)\.safetensors", path))
    )
    for n in range(numbers[-1] + 1):
        if n not in numbers:
            raise CheckpointError(f"{source.name} has {numbers[-1] + 1} layers, but no params_layer_{n}.safetensors")
    files = [source.tensors(f"params_layer_{n}.safetensors") for n in numbers]
    count = len(files)
    width, latents = files[0].matrix("w_enc")
    for file in files:
        file.take(*PLAIN, optional=(SKIP,))
        if (SKIP in file) != (SKIP in files[0]):
            raise CheckpointError(f"one of {files[0].path} and {file.path} has '{SKIP}' and the other does not")
        shapes = {"w_enc": (width, latents), "b_enc": (latents,), "b_dec": (width,), "threshold": (latents,)}
        file.expect({**shapes, "w_dec": (latents, count, width)}, f"{count} files of layers")
    kind, questions = _several(source.name, answers)
    slots = _several_slots(source.name, kind, count, width)
    reads, writes = slots[:count], slots[-count:]
    # Of a cross-layer transcoder, whose layout is known, the last file is enough.
    earlier = _earlier_targets(files[1:] if kind == "crosscoder" else files[-1:] if count > 1 else [])
    why = "w_dec has rows for earlier layers that are not zero, so its targets may count from the source layer on"
    order = Question(key="targets", text=why, example="relative", assumed="absolute", choices=("absolute", "relative"))
    asked = kind == "crosscoder" and bool(earlier)
    questions += [order] if asked else []
    first = [0] * count if asked and answers.to(order) == "relative" else range(count)
    groups = [
        GroupPlan(
            name=f"layer{n}",
            num_latents=latents,
            reads={reads[n].key: file["w_enc"].T},
            writes={writes[n + j].key: file["w_dec"][:, first[n] + j] for j in range(count - n)},
            bias=file["b_enc"].load,
            threshold=file["threshold"].load,
        )
        for n, file in enumerate(files)
    ]
    assumed = ["w_dec is (latent, target layer, width), as the shapes allow; earlier targets are left out"]
    if kind == "crosscoder":
        assumed.append(
            "latents of source layer i read it and write layers from i on: no other library reads these files; check "
            "the reconstruction error on activations"
        )
    return Blueprint(
        format=name,
        family="cross-layer transcoder" if kind == "clt" else "weakly causal crosscoder",
        slots=slots,
        groups=groups,
        decoder_bias={writes[n].key: (file["b_dec"].load,) for n, file in enumerate(files)},
        skip={(reads[n].key, writes[n].key): file[SKIP].T for n, file in enumerate(files) if SKIP in file},
        gate=GatePlan(name="jumprelu"),
        questions=questions,
        models=named_model(config, "model_name", CONFIG),
        dtype=files[0]["w_enc"].dtype,
        size=sum(tensor.size for file in files for tensor in file.values()),
        config={CONFIG: config} if config else {},
        assumed=assumed,
        warnings=earlier if kind == "clt" else (),
    )


def _several(name: str, answers: Answers) -> tuple[str, list[Question]]:
    why = "no folder name says whether it is a cross-layer transcoder ('clt') or a weakly causal crosscoder"
    question = Question(key="kind", text=why, example="clt", choices=("clt", "crosscoder"))
    for kind in () if "kind" in answers.others else ("crosscoder", "clt"):
        if re.search(rf"(?:^|[/:]){kind}(?:[/_]|$)", name):
            return kind, []
    return answers.to(question), [question]


def _several_slots(name: str, kind: str, count: int, width: int) -> list[Slot]:
    if kind == "clt":
        return [
            Slot(key=f"{way}.{n}", width=width, site=f"model/layers.{n}.{point}", what=f"layer {n}")
            for way, point in (("in", "mlp_input"), ("out", "mlp"))
            for n in range(count)
        ]
    found = re.findall(r"layer((?:_\d+)+)_width", name)
    layers = found[-1].strip("_").split("_") if found else []
    named = len(layers) == count
    return [
        Slot(
            key=str(n),
            width=width,
            site=f"model/layers.{layers[n]}" if named else "",
            what=f"layer {layers[n]}" if named else f"number {n} of {count} layers",
        )
        for n in range(count)
    ]


def _earlier_targets(files: Sequence[TensorFile]) -> list[str]:
    """Rows for layers before the source should be zero: a look at a few of the first layer, which come alone."""

    def some(rows: View) -> bool:
        count = rows.shape[0]
        return any(bool(rows.rows(at, at + 1).any()) for at in range(0, count, max(1, count // 4)))

    wrong = [file.path for file in files if some(file["w_dec"][:, 0])]
    return [f"{path} has rows for earlier layers that are not zero; they are left out" for path in wrong]
