"""Goreg12345's crosslayer-transcoder: `config.yaml`, a tree of classes, and `checkpoint.safetensors`.

`encoder.W` (L, d, F), `decoder.W_{t}` (t+1, F, d) or `decoder.W` (L, F, d). Class names are only compared with those
below, and never imported. Standardisers, where they were not folded when saved, are folded here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from crosscoders import CheckpointError, CheckpointFormat
from crosscoders.authoring import Answers, Blueprint, GatePlan, GroupPlan, Question, Rows, Slot, Source, TensorFile

from .common import flag, integer, ones, table, text, unsaid_gate
from .standardise import Columns, standardised

CONFIG, WEIGHTS = "config.yaml", "checkpoint.safetensors"
DECODERS = ("CrosslayerDecoder", "Decoder")
ACTIVATIONS = ("ReLU", "JumpReLU", "BatchTopK", "PerLayerTopK", "PerLayerBatchTopK", "TopK")


class CrosslayerTranscoder(CheckpointFormat):
    """Reader."""

    name = "crosslayer_transcoder"

    def __init__(self, options: object) -> None:
        pass

    def detect(self, source: Source) -> bool:
        return WEIGHTS in source and {"encoder.W", "encoder.b", "decoder.b"} <= set(source.tensors(WEIGHTS))

    def inspect(self, source: Source, answers: Answers) -> Blueprint:
        file = source.tensors(WEIGHTS)
        config = source.yaml(CONFIG) if CONFIG in source else {}
        init = _init_args(config)
        layers, width, latents = file.shape_of("encoder.W", 3)
        cross = "decoder.W" not in file
        gate, bounds, refused, tensors = _gate(file, init, layers, latents)
        questions: list[Question] = []
        if not config and not tensors:
            gate, questions = unsaid_gate(
                answers, f"there is no {CONFIG}, and the weights of a relu and of a topk are alike", latents
            )
        decoders = [f"decoder.W_{t}" for t in range(layers)] if cross else ["decoder.W"]
        statistics = [name for name in file if "standardizer." in name]
        file.take("encoder.W", "encoder.b", "decoder.b", *decoders, *tensors, optional=tuple(statistics))
        expected: dict[str, tuple[int, ...]] = {"encoder.b": (layers, latents), "decoder.b": (layers, width)}
        if cross:
            expected |= {f"decoder.W_{t}": (t + 1, latents, width) for t in range(layers)}
        else:
            expected["decoder.W"] = (layers, latents, width)
        file.expect(expected, "'encoder.W'")
        inputs, outputs = (_columns(file, config, init, way, layers, width) for way in ("input", "output"))
        groups = []
        for s in range(layers):
            writes: dict[str, Rows] = (
                {f"out.{t}": file[f"decoder.W_{t}"][s] for t in range(s, layers)}
                if cross
                else {f"out.{s}": file["decoder.W"][s]}
            )
            groups.append(
                GroupPlan(
                    name=f"layer{s}",
                    num_latents=latents,
                    reads={f"in.{s}": file["encoder.W"][s].T},
                    writes=writes,
                    bias=file["encoder.b"][s].load,
                    threshold=bounds[s] if bounds else None,
                )
            )
        blueprint = Blueprint(
            format=self.name,
            family="cross-layer transcoder" if cross else f"transcoders, one for each of {layers} layers",
            version="folded" if _is_folded(config) else "not folded",
            slots=[
                Slot(
                    key=f"{way}.{n}",
                    width=width,
                    what=f"layer {n}, {way}put",
                    example=f"model/layers.{n}.{'mlp_input' if way == 'in' else 'mlp'}",
                )
                for way in ("in", "out")
                for n in range(layers)
            ],
            groups=groups,
            decoder_bias={f"out.{n}": (file["decoder.b"][n].load,) for n in range(layers)},
            gate=gate,
            dtype=file["encoder.W"].dtype,
            size=sum(tensor.size for tensor in file.values()),
            config={CONFIG: config} if config else {},
            questions=questions,
            assumed=()
            if config
            else (f"no {CONFIG}: sizes are those of the tensors, and standardisers were folded in",),
            refused=refused,
        )
        return standardised(blueprint, inputs, outputs)


def _init_args(config: Mapping[str, Any]) -> dict[str, Any]:
    return table(_model(config), "init_args", CONFIG)


def _model(config: Mapping[str, Any]) -> Mapping[str, Any]:
    return table(config, "model", CONFIG) or config


def _is_folded(config: Mapping[str, Any]) -> bool:
    return flag(_model(config), "is_folded", CONFIG, default=True)


def _class(init: Mapping[str, Any], key: str) -> str:
    """The last part of a class path, "" where none is said."""
    return text(table(init, key, CONFIG), "class_path", CONFIG).rpartition(".")[2]


def _gate(
    file: TensorFile, init: Mapping[str, Any], layers: int, latents: int
) -> tuple[GatePlan, list[Callable[[], Tensor]], str, list[str]]:
    """The gate, thresholds of each layer, why it cannot be held, and the tensors that it has."""
    decoder, activation = _class(init, "decoder"), _class(init, "nonlinearity")
    if decoder and decoder not in DECODERS:
        raise CheckpointError(f"{CONFIG} says a decoder of the class '{decoder}'; known are {', '.join(DECODERS)}")
    if activation and activation not in ACTIVATIONS:
        raise CheckpointError(
            f"{CONFIG} says a nonlinearity of the class '{activation}'; known are {', '.join(ACTIVATIONS)}"
        )
    tensors = [name for name in file if name.startswith("nonlinearity.")]
    if "nonlinearity.theta" in file or activation == "JumpReLU":
        if "nonlinearity.theta" not in file:
            raise CheckpointError(f"{CONFIG} says JumpReLU, but {file.path} has no tensor 'nonlinearity.theta'")
        file.expect({"nonlinearity.theta": (1, layers, latents)}, "'encoder.W'")
        bounds = [file["nonlinearity.theta"][0, n].load for n in range(layers)]
        return GatePlan(name="jumprelu"), bounds, "", tensors
    if activation in ("PerLayerTopK", "TopK"):
        options = table(init["nonlinearity"], "init_args", CONFIG)
        k = integer(options, "k", CONFIG)
        return GatePlan(name="topk", k=k, by="activation", per_group=activation == "PerLayerTopK"), [], "", tensors
    if activation in ("BatchTopK", "PerLayerBatchTopK"):
        name = next((name for name in tensors if "threshold" in name), "")
        if not name:
            refused = f"its {activation} has no threshold in the file, so what fires depends on the batch"
            return GatePlan(), [], refused, tensors
        if file[name].shape not in ((), (1,), (layers,)):
            raise CheckpointError(f"'{name}' in {file.path} has shape {file[name].shape}, where {layers} layers are")
        value = file[name].load().flatten().clamp_min(0).expand(layers)
        return GatePlan(name="jumprelu"), [ones(latents, float(value[n])) for n in range(layers)], "", tensors
    return GatePlan(), [], "", tensors


def _columns(
    file: TensorFile, config: Mapping[str, Any], init: Mapping[str, Any], way: str, layers: int, width: int
) -> dict[str, Columns]:
    name = f"{way}_standardizer"
    if f"{name}.mean" not in file:
        if isinstance(init.get(name), dict) and not _is_folded(config):
            raise CheckpointError(f"{CONFIG} says a {name} that was not folded, but {file.path} has no '{name}.mean'")
        return {}
    if f"{name}.std" not in file:
        raise CheckpointError(f"{file.path} has '{name}.mean', but no tensor '{name}.std'")
    file.expect({f"{name}.mean": (layers, width), f"{name}.std": (layers, width)}, "'encoder.W'")
    return {
        f"{way.removesuffix('put')}.{n}": Columns(file[f"{name}.mean"][n].load, file[f"{name}.std"][n].load)
        for n in range(layers)
    }
