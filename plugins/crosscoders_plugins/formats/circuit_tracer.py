"""circuit-tracer: cross-layer transcoders (`W_enc_{i}`, `W_dec_{i}`) and per-layer ones (`layer_{i}`)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save_file
from torch import Tensor

from crosscoders import CheckpointError, CheckpointFormat, Crosscoder
from crosscoders.authoring import Answers, Blueprint, GatePlan, GroupPlan, Question, Slot, Source

from .common import hook_site, named_model, text, threshold, unsaid_gate
from .thresholds import raw_thresholds

CONFIG = "config.yaml"


class _CircuitTracer(CheckpointFormat):
    def __init__(self, options: object) -> None:
        pass

    def _config(self, source: Source) -> dict[str, Any]:
        return source.yaml(CONFIG) if CONFIG in source else {}

    def _common(self, config: dict[str, Any], layers: int, width: int, kind: str) -> dict[str, Any]:
        said = text(config, "model_kind", CONFIG)
        if said and said != kind:
            raise CheckpointError(f"{CONFIG} says model_kind = {said!r}, but the files are of a {kind}")
        hooks = [text(config, f"feature_{way}_hook", CONFIG) for way in ("input", "output")]
        slots = [
            Slot(
                key=f"{way}.{n}",
                width=width,
                site=hook_site(f"blocks.{n}.{hook}") if hook else "",
                what=f"layer {n}, {hook or way}",
                example=f"model/layers.{n}.{'mlp_input' if way == 'in' else 'mlp'}",
            )
            for way, hook in zip(("in", "out"), hooks, strict=True)
            for n in range(layers)
        ]
        return {
            "format": self.name,
            "slots": slots,
            "models": named_model(config, "model_name", CONFIG),
            "config": {CONFIG: config} if config else {},
            "assumed": () if config else (f"no {CONFIG}: sizes are those of the tensors",),
        }


class CircuitTracerClt(_CircuitTracer):
    """Reader and writer of cross-layer transcoders."""

    name = "circuit_tracer_clt"

    def detect(self, source: Source) -> bool:
        path = "W_enc_0.safetensors"
        return path in source and {"W_enc_0", "b_enc_0", "b_dec_0"} <= set(source.tensors(path))

    def inspect(self, source: Source, answers: Answers) -> Blueprint:
        numbers = _numbers(source, r"W_(?:enc|dec)_(\d+)\.safetensors")
        layers = max(numbers) + 1
        for n in range(layers):
            for part in ("enc", "dec"):
                if f"W_{part}_{n}.safetensors" not in source:
                    raise CheckpointError(f"{source.name} has {layers} layers, but no W_{part}_{n}.safetensors")
        encoders = [source.tensors(f"W_enc_{n}.safetensors") for n in range(layers)]
        decoders = [source.tensors(f"W_dec_{n}.safetensors") for n in range(layers)]
        latents, width = encoders[0].matrix("W_enc_0")
        with_thresholds = [f"threshold_{n}" in file for n, file in enumerate(encoders)]
        groups = []
        for n, (encoder, decoder) in enumerate(zip(encoders, decoders, strict=True)):
            if any(with_thresholds) and not with_thresholds[n]:
                raise CheckpointError(f"{encoder.path} has no tensor 'threshold_{n}', which other layers have")
            named = [f"W_enc_{n}", f"b_enc_{n}", f"b_dec_{n}"]
            encoder.take(*named, *([f"threshold_{n}"] if with_thresholds[n] else []))
            decoder.take(f"W_dec_{n}")
            encoder.expect(dict(zip(named, ((latents, width), (latents,), (width,)), strict=True)), "layer 0")
            if with_thresholds[n]:
                encoder.expect({f"threshold_{n}": (latents,)}, "layer 0")
            decoder.expect({f"W_dec_{n}": (latents, layers - n, width)}, f"{layers} layers")
            W_dec = decoder[f"W_dec_{n}"]
            groups.append(
                GroupPlan(
                    name=f"layer{n}",
                    num_latents=latents,
                    reads={f"in.{n}": encoder[f"W_enc_{n}"][:]},
                    writes={f"out.{n + j}": W_dec[:, j] for j in range(layers - n)},
                    bias=encoder[f"b_enc_{n}"].load,
                    threshold=threshold(encoder[f"threshold_{n}"][:]) if with_thresholds[n] else None,
                )
            )
        return Blueprint(
            **self._common(self._config(source), layers, width, "cross_layer_transcoder"),
            family="cross-layer transcoder",
            groups=groups,
            decoder_bias={f"out.{n}": (file[f"b_dec_{n}"].load,) for n, file in enumerate(encoders)},
            gate=GatePlan(name="jumprelu" if any(with_thresholds) else "relu"),
            dtype=encoders[0]["W_enc_0"].dtype,
            size=sum(tensor.size for file in (*encoders, *decoders) for tensor in file.values()),
        )

    def check(self, crosscoder: Crosscoder) -> list[str]:
        wiring = crosscoder.wiring
        reads, writes = wiring.read.names, wiring.written.names
        layers = len(wiring.groups)
        causal = len(reads) == len(writes) == layers and all(
            group.reads == (reads[n],) and group.writes == writes[n:] for n, group in enumerate(wiring.groups)
        )
        if not causal:
            raise CheckpointError(
                f"the format '{self.name}' holds layers of which number i reads one site and writes sites i to the last"
            )
        if _layer_numbers(reads) not in (None, list(range(layers))) or _layer_numbers(writes) not in (
            None,
            list(range(layers)),
        ):
            raise CheckpointError(
                f"the format '{self.name}' numbers layers from 0 to {layers - 1}, not as in {', '.join(reads)}"
            )
        if len({site.width for site in crosscoder.sites}) > 1 or len({g.num_latents for g in wiring.groups}) > 1:
            raise CheckpointError(f"the format '{self.name}' needs one width and equally many latents in each layer")
        if wiring.skip:
            raise CheckpointError(
                f"the format '{self.name}' has no skip maps: its own writer and reader leave them out"
            )
        changes = _gate_changes(crosscoder, self.name)
        if wiring.ties:
            changes.append("tied decoder rows are written out for each layer")
        return changes

    def write(self, crosscoder: Crosscoder, folder: Path) -> None:
        folded, width = crosscoder.folded(), crosscoder.sites[0].width
        b_dec = crosscoder.written.unpack(folded["b_dec_X"])
        bound_F = None if crosscoder.gate.name == "relu" else raw_thresholds(crosscoder)
        for n, group in enumerate(crosscoder.wiring.groups):
            latents = crosscoder.wiring.latent_slices[group.name]
            encoder = {
                f"W_enc_{n}": folded[f"W_enc.{n}"],
                f"b_enc_{n}": folded["b_enc_F"][latents],
                f"b_dec_{n}": b_dec[group.writes[0]],
            }
            if bound_F is not None:
                encoder[f"threshold_{n}"] = bound_F[latents]
            _save(encoder, folder / f"W_enc_{n}.safetensors")
            W_dec = folded[f"W_dec.{n}"].view(group.num_latents, len(group.writes), width)
            _save({f"W_dec_{n}": W_dec}, folder / f"W_dec_{n}.safetensors")
        _write_config(crosscoder, folder, "cross_layer_transcoder")


class CircuitTracerPlt(_CircuitTracer):
    """Reader and writer of per-layer transcoders."""

    name = "circuit_tracer_plt"

    def detect(self, source: Source) -> bool:
        path = next(iter(source.matching("layer_*.safetensors")), "")
        return bool(path) and {"W_enc", "W_dec", "b_enc", "b_dec"} <= set(source.tensors(path))

    def inspect(self, source: Source, answers: Answers) -> Blueprint:
        numbers = _numbers(source, r"layer_(\d+)\.safetensors")
        missing = next((n for n in range(max(numbers)) if n not in numbers), None)
        if missing is not None:
            raise CheckpointError(f"{source.name} has {max(numbers) + 1} layers, but no layer_{missing}.safetensors")
        files = [source.tensors(f"layer_{n}.safetensors") for n in range(len(numbers))]
        latents, width = files[0].matrix("W_enc")
        key, skip = "activation_function.threshold", "W_skip"
        groups = []
        for n, file in enumerate(files):
            for name in (key, skip):
                if (name in file) != (name in files[0]):
                    raise CheckpointError(f"one of {files[0].path} and {file.path} has '{name}' and the other does not")
            file.take("W_enc", "W_dec", "b_enc", "b_dec", optional=(key, skip))
            if key in file:
                file.expect({key: (latents,)}, "layer 0")
            file.expect(
                {"W_enc": (latents, width), "W_dec": (latents, width), "b_enc": (latents,), "b_dec": (width,)},
                "layer 0",
            )
            groups.append(
                GroupPlan(
                    name=f"layer{n}",
                    num_latents=latents,
                    reads={f"in.{n}": file["W_enc"][:]},
                    writes={f"out.{n}": file["W_dec"][:]},
                    bias=file["b_enc"].load,
                    threshold=threshold(file[key][:]) if key in file else None,
                )
            )
        common = self._common(self._config(source), len(files), width, "transcoder_set")
        gate = GatePlan(name="jumprelu")
        questions: list[Question] = []
        if key not in files[0]:
            gate, questions = unsaid_gate(
                answers, "the files have no thresholds, and those of a relu and of a topk are alike", latents
            )
        return Blueprint(
            **common,
            family=f"transcoders, one for each of {len(files)} layers",
            groups=groups,
            decoder_bias={f"out.{n}": (file["b_dec"].load,) for n, file in enumerate(files)},
            skip={(f"in.{n}", f"out.{n}"): file[skip][:] for n, file in enumerate(files) if skip in file},
            gate=gate,
            questions=questions,
            warnings=(
                "its own topk keeps the k largest even below 0; latents here are never below 0, so those are off",
            )
            if gate.name == "topk"
            else (),
            dtype=files[0]["W_enc"].dtype,
            size=sum(tensor.size for file in files for tensor in file.values()),
        )

    def check(self, crosscoder: Crosscoder) -> list[str]:
        wiring = crosscoder.wiring
        reads, writes = wiring.read.names, wiring.written.names
        pairs = [(group.reads, group.writes) for group in wiring.groups]
        if pairs != [((read,), (written,)) for read, written in zip(reads, writes, strict=False)]:
            raise CheckpointError(f"the format '{self.name}' holds layers of which each reads one site and writes one")
        if len({site.width for site in crosscoder.sites}) > 1:
            raise CheckpointError(f"the format '{self.name}' needs sites of one width")
        if any((read, written) not in zip(reads, writes, strict=True) for read, written in wiring.skip):
            raise CheckpointError(f"the format '{self.name}' has skip maps within a layer only")
        if set(reads) & set(writes):
            raise CheckpointError(
                f"the format '{self.name}' holds transcoders, and {reads[0]} is both read and written"
            )
        changes = _gate_changes(crosscoder, self.name)
        numbers = _layer_numbers(reads)
        if numbers not in (None, list(range(len(reads)))):
            changes.append(f"files are numbered from 0 on: layer_0.safetensors is of {reads[0]}")
        return changes

    def write(self, crosscoder: Crosscoder, folder: Path) -> None:
        folded = crosscoder.folded()
        b_dec = crosscoder.written.unpack(folded["b_dec_X"])
        bound_F = None if crosscoder.gate.name == "relu" else raw_thresholds(crosscoder)
        skips = {read: folded[f"W_skip.{i}"] for i, (read, _) in enumerate(crosscoder.wiring.skip)}
        for n, group in enumerate(crosscoder.wiring.groups):
            latents = crosscoder.wiring.latent_slices[group.name]
            tensors = {
                "W_enc": folded[f"W_enc.{n}"],
                "W_dec": folded[f"W_dec.{n}"],
                "b_enc": folded["b_enc_F"][latents],
                "b_dec": b_dec[group.writes[0]],
            }
            if bound_F is not None:
                tensors["activation_function.threshold"] = bound_F[latents]
            if group.reads[0] in skips:
                tensors["W_skip"] = skips[group.reads[0]]
            _save(tensors, folder / f"layer_{n}.safetensors")
        _write_config(crosscoder, folder, "transcoder_set")


def _numbers(source: Source, pattern: str) -> list[int]:
    return sorted({int(found[1]) for name in source.files if (found := re.fullmatch(pattern, name))})


def _layer_numbers(names: tuple[str, ...]) -> list[int] | None:
    found = [re.search(r"/(?:layers|blocks)\.(\d+)", name) for name in names]
    return [int(one[1]) for one in found if one] if all(found) else None


def _gate_changes(crosscoder: Crosscoder, name: str) -> list[str]:
    crosscoder.normaliser.require_known()
    if crosscoder.gate.name not in ("relu", "jumprelu", "score_threshold"):
        raise CheckpointError(f"the format '{name}' holds relu and thresholds, not the gate '{crosscoder.gate.name}'")
    changes = []
    if bool((crosscoder.normaliser.scale_S != 1).any()):
        changes.append("scales are folded into the weights: raw activations go in and out")
    if crosscoder.gate.name == "score_threshold":
        changes.append("the score threshold becomes a threshold on each latent")
    changes.append("its loader takes bfloat16 unless it is told dtype=float32")
    return changes


def _write_config(crosscoder: Crosscoder, folder: Path, kind: str) -> None:
    points = []
    for names in (crosscoder.wiring.read.names, crosscoder.wiring.written.names):
        point = re.sub(r"^(?:layers|blocks)\.\d+\.?", "", names[0].partition("/")[2])
        points.append(_TO_HOOK.get(point, point))
    models = crosscoder.info.models if crosscoder.info else {}
    config = {
        "model_name": models.get(crosscoder.sites[0].model, {}).get("model", ""),
        "model_kind": kind,
        "feature_input_hook": points[0],
        "feature_output_hook": points[1],
        "scan": "",
    }
    if kind == "transcoder_set":
        config["transcoders"] = [f"layer_{n}.safetensors" for n in range(len(crosscoder.wiring.groups))]
    (folder / CONFIG).write_text(yaml.safe_dump(config))


_TO_HOOK = {"mlp_input": "mlp.hook_in", "mlp": "hook_mlp_out", "input": "hook_resid_pre", "": "hook_resid_post"}


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    save_file({name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}, path)
