"""CLT-Forge: `clt_cfg.json`, and `clt_weights.safetensors` or a file for each rank that held a share of the latents.

`W_enc` (L, d, F), `W_dec` (K, F, d) over the K pairs (source, target) with source ≤ target, or K = L without
cross-layer decoders; thresholds as logarithms; one factor for the inputs and one for the outputs of each layer.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from attrs import field, frozen
from torch import Tensor

from crosscoders import CheckpointError, CheckpointFormat
from crosscoders.authoring import Answers, Blueprint, GatePlan, GroupPlan, Rows, Slot, Source, TensorFile, View

from .common import exp, flag, integer, named_model

CONFIG, WEIGHTS = "clt_cfg.json", "clt_weights.safetensors"
TENSORS = ("W_enc", "b_enc", "W_dec", "b_dec", "log_threshold")
FACTORS = ("estimated_norm_scaling_factor_in", "estimated_norm_scaling_factor_out")


@frozen(eq=False)
class _Joined:
    """Rows of several views as one matrix."""

    parts: list[View]
    shape: tuple[int, ...] = field()

    @shape.default
    def _of_parts(self) -> tuple[int, ...]:
        return (sum(part.shape[0] for part in self.parts), *self.parts[0].shape[1:])

    def rows(self, start: int, stop: int) -> Tensor:
        found, before = [], 0
        for part in self.parts:
            low, high = max(start - before, 0), min(stop - before, part.shape[0])
            if low < high:
                found.append(part.rows(low, high))
            before += part.shape[0]
        return torch.cat(found)


class CltForge(CheckpointFormat):
    """Reader."""

    name = "clt_forge"

    def __init__(self, options: object) -> None:
        pass

    def detect(self, source: Source) -> bool:
        return CONFIG in source and {"d_in", "d_latent", "n_layers"} <= set(source.json(CONFIG))

    def inspect(self, source: Source, answers: Answers) -> Blueprint:
        config = source.json(CONFIG)
        layers, width, latents = (integer(config, key, CONFIG) for key in ("n_layers", "d_in", "d_latent"))
        files = _files(source)
        if files[0].shape_of("W_enc", 3)[:2] != (layers, width):
            raise CheckpointError(
                f"{CONFIG} says {layers} layers of width {width}, but 'W_enc' in {files[0].path} has the shape "
                f"{files[0]['W_enc'].shape}"
            )
        cross = flag(config, "cross_layer_decoders", CONFIG, default=True)
        pairs = [(s, t) for s in range(layers) for t in (range(s, layers) if cross else [s])]
        share = latents // len(files)
        for file in files:
            file.take(*TENSORS, *FACTORS, optional=("feature_count", "layer_mask"))
            file.expect(
                {
                    "W_enc": (layers, width, share),
                    "b_enc": (layers, share),
                    "W_dec": (len(pairs), share, width),
                    "b_dec": (len(pairs), width),
                    "log_threshold": (layers, share),
                    **dict.fromkeys(FACTORS, (layers,)),
                },
                CONFIG,
            )
        first = files[0]
        factors = {key: first[key].load() for key in FACTORS}
        for key, value in factors.items():
            if bool((value <= 0).any()):
                raise CheckpointError(f"'{key}' in {first.path} is {value.tolist()}; factors are positive")
        groups = [
            GroupPlan(
                name=f"layer{s}",
                num_latents=latents,
                reads={f"in.{s}": _rows([file["W_enc"][s].T for file in files])},
                writes={
                    f"out.{t}": _rows([file["W_dec"][n] for file in files]) for n, (o, t) in enumerate(pairs) if o == s
                },
                bias=_vector([file["b_enc"][s] for file in files]),
                threshold=_logs([file["log_threshold"][s] for file in files]),
            )
            for s in range(layers)
        ]
        return Blueprint(
            format=self.name,
            family="cross-layer transcoder" if cross else f"transcoders, one for each of {layers} layers",
            version="" if len(files) == 1 else f"latents in {len(files)} files",
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
            decoder_bias={
                f"out.{t}": tuple(first["b_dec"][n].load for n, (_, o) in enumerate(pairs) if o == t)
                for t in range(layers)
            },
            gate=GatePlan(name="jumprelu"),
            scales={
                f"{way}.{n}": float(factors[key][n])
                for way, key in zip(("in", "out"), FACTORS, strict=True)
                for n in range(layers)
            },
            models=named_model(config, "model_name", CONFIG),
            dtype=first["W_enc"].dtype,
            size=sum(tensor.size for file in files for tensor in file.values()),
            config={CONFIG: config},
        )


def _files(source: Source) -> list[TensorFile]:
    if WEIGHTS in source:
        return [source.tensors(WEIGHTS)]
    found = [re.fullmatch(rf"rank(\d+)_{re.escape(WEIGHTS)}", name) for name in source.files]
    ranks = sorted(int(one[1]) for one in found if one)
    if not ranks:
        raise CheckpointError(f"{source.name} has neither {WEIGHTS} nor rank0_{WEIGHTS}")
    for rank in range(ranks[-1] + 1):
        if rank not in ranks:
            raise CheckpointError(f"{source.name} has {ranks[-1] + 1} ranks, but no rank{rank}_{WEIGHTS}")
    return [source.tensors(f"rank{rank}_{WEIGHTS}") for rank in ranks]


def _rows(parts: list[View]) -> Rows:
    return parts[0] if len(parts) == 1 else _Joined(parts)


def _vector(parts: list[View]) -> Any:
    return lambda: torch.cat([part.load() for part in parts])


def _logs(parts: list[View]) -> Any:
    return lambda: torch.cat([exp(part)() for part in parts])
