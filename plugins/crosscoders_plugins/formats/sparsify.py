"""EleutherAI's sparsify and clt-training: a folder for each hook with `cfg.json` and `sae.safetensors`.

`encoder.weight` (F, d), `W_dec` (F, d); the k largest activations of each token. clt-training adds targets: `W_decs.j`
of source layer s goes to layer s + j, with a post-encoder offset that must be zero here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import Any, ClassVar

import torch
from attrs import frozen
from torch import Tensor

from crosscoders import CheckpointError, CheckpointFormat
from crosscoders.authoring import Answers, Blueprint, GatePlan, GroupPlan, Rows, Slot, Source, TensorFile, Vector

from .common import agree, flag, hook_site, integer, text

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"


@frozen(eq=False)
class _Part:
    """The coder of one hook."""

    hook: str
    config: Mapping[str, Any]
    file: TensorFile
    path: str
    width: int
    latents: int

    @property
    def transcodes(self) -> bool:
        return self.says("transcode")

    @property
    def targets(self) -> int:
        return integer(self.config, "n_targets", self.path, least=0) if self.config.get("n_targets") is not None else 0

    def says(self, key: str) -> bool:
        """A yes or no of the config; no where it says nothing."""
        return flag(self.config, key, self.path, default=False)


class Sparsify(CheckpointFormat):
    """Reader of sparse autoencoders and transcoders, one or one for each layer."""

    name: ClassVar[str] = "sparsify"
    of_clt_training = False

    def __init__(self, options: object) -> None:
        pass

    def detect(self, source: Source) -> bool:
        hooks = _hooks(source)
        if not hooks:
            return False
        config = source.json(_join(hooks[0], CONFIG))
        ours = "d_in" in config and ("num_latents" in config or "expansion_factor" in config)
        return ours and ("n_targets" in config) == self.of_clt_training

    def inspect(self, source: Source, answers: Answers) -> Blueprint:
        parts = [_part(source, hook) for hook in _hooks(source)]
        first = parts[0]
        for key in ("activation", "k", "transcode", "n_targets"):
            if key != "n_targets" and any(part.config.get(key) != first.config.get(key) for part in parts):
                raise CheckpointError(f"the configs of {source.name} differ in '{key}' from hook to hook")
        common: dict[str, Any] = {
            "format": self.name,
            "dtype": first.file["encoder.weight"].dtype,
            "size": sum(tensor.size for part in parts for tensor in part.file.values()),
            "config": {part.path: part.config for part in parts},
        }
        activation = text(first.config, "activation", first.path, default="topk")
        refused = "" if activation == "topk" else f"its activation is '{activation}', and only topk has a gate of ours"
        for key in ("coalesce_topk",):
            if first.config.get(key, "none") not in ("none", None):
                refused = f"{key} = {first.config[key]!r} keeps the k largest over layers together, after merging them"
        if any(part.targets > 1 for part in parts):
            return _cross_layer(parts, refused, common)
        return _single(parts, refused, common)


class CltTraining(Sparsify):
    """Reader of cross-layer transcoders and of per-layer ones that clt-training wrote."""

    name: ClassVar[str] = "clt_training"
    of_clt_training = True


def _hooks(source: Source) -> list[str]:
    """The folders of coders, "" for the root itself, in the order of layers."""
    if CONFIG in source and WEIGHTS in source:
        return [""]
    found = [str(PurePosixPath(path).parent) for path in source.matching(f"*/{CONFIG}")]
    found = [hook for hook in found if f"{hook}/{WEIGHTS}" in source]
    return sorted(found, key=lambda hook: [int(part) if part.isdigit() else -1 for part in re.split(r"\D+", hook)])


def _join(hook: str, file: str) -> str:
    return f"{hook}/{file}" if hook else file


def _part(source: Source, hook: str) -> _Part:
    config, file = source.json(_join(hook, CONFIG)), source.tensors(_join(hook, WEIGHTS))
    path = _join(hook, CONFIG)
    width = integer(config, "d_in", path)
    if "encoder.weight" not in file:
        raise CheckpointError(f"{file.path} has no tensor 'encoder.weight'")
    latents, _ = file.matrix("encoder.weight")
    if config.get("num_latents") not in (None, 0):
        agree(config, path, {"num_latents": latents}, file.path)
    elif latents != width * integer(config, "expansion_factor", path):
        raise CheckpointError(
            f"{path} means {width * config['expansion_factor']} latents, but {file.path} has {latents}"
        )
    if "encoder.bias" not in file:
        raise CheckpointError(f"{file.path} has no tensor 'encoder.bias'")
    file.expect({"encoder.weight": (latents, width), "encoder.bias": (latents,)}, path)
    return _Part(hook or source.folder, config, file, path, width, latents)


def _sites(part: _Part) -> tuple[str, str]:
    """What the coder of a hook reads and writes: a module's input and output for transcoders."""
    written = hook_site(part.hook)
    if not part.transcodes:
        return written, written
    found = re.fullmatch(r"(.*/layers\.\d+)(\.mlp)?", written)
    if not found:
        return "", written
    return f"{found[1]}.mlp_input" if found[2] else f"{found[1]}.input", written


def _single(parts: Sequence[_Part], refused: str, common: dict[str, Any]) -> Blueprint:
    slots: list[Slot] = []
    groups, biases, skips, subtract = [], {}, {}, {}
    for part in parts:
        file = part.file
        optional = ("W_skip", "post_enc", "in_norm", "out_norm")
        file.take("encoder.weight", "encoder.bias", "W_dec", "b_dec", optional=optional)
        file.expect({"W_dec": (part.latents, part.width), "b_dec": (part.width,)}, part.path)
        refused = refused or _offsets(file, [name for name in ("post_enc",) if name in file])
        names = [part.hook, part.hook] if not part.transcodes else [f"{part.hook}.in", f"{part.hook}.out"]
        for key, site in dict(zip(names, _sites(part), strict=True)).items():
            slots.append(Slot(key=key, width=part.width, site=site, what=part.hook))
        groups.append(_group(part, names[0], {names[1]: file["W_dec"][:]}))
        biases[names[1]] = (file["b_dec"].load,)
        if not part.transcodes:
            subtract[names[0]] = file["b_dec"].load
        if "W_skip" in file:
            skips[names[0], names[1]] = file["W_skip"][:]
    transcodes = parts[0].transcodes
    family = "transcoder" if transcodes else "sparse autoencoder"
    return Blueprint(
        family=family if len(parts) == 1 else f"{family}s, one for each of {len(parts)} hooks",
        slots=slots if not transcodes else sorted(slots, key=lambda slot: slot.key.endswith(".out")),
        groups=groups,
        decoder_bias=biases,
        subtract=subtract,
        skip=skips,
        gate=_gate(parts),
        scales=_scales(parts, [(f"{p.hook}.in", f"{p.hook}.out") for p in parts]),
        refused=refused,
        **common,
    )


def _cross_layer(parts: Sequence[_Part], refused: str, common: dict[str, Any]) -> Blueprint:
    """Layer s reads its own input and writes layers s … L-1."""
    layers = len(parts)
    keys = [(f"{part.hook}.in", f"{part.hook}.out") for part in parts]
    slots = [Slot(key=keys[n][0], width=p.width, site=_sites(p)[0], what=p.hook) for n, p in enumerate(parts)]
    slots += [Slot(key=keys[n][1], width=p.width, site=_sites(p)[1], what=p.hook) for n, p in enumerate(parts)]
    groups, ties = [], []
    biases: dict[str, tuple[Vector, ...]] = {written: () for _, written in keys}
    skips: dict[tuple[str, str], Rows] = {}
    for source, part in enumerate(parts):
        file = part.file
        if part.targets != layers - source:
            raise CheckpointError(
                f"{part.path} says n_targets = {part.targets}, where {layers} layers mean {layers - source}"
            )
        numbers = range(part.targets)
        tied = part.says("per_source_tied")
        expected = ["encoder.weight", "encoder.bias", "W_dec", "b_dec", *(f"b_decs.{j}" for j in numbers)]
        expected += [] if tied else [f"W_decs.{j}" for j in numbers]
        optional = [f"{stem}.{j}" for stem in ("post_encs", "post_enc_scales", "W_skips") for j in numbers]
        file.take(*expected, optional=(*optional, "W_skip", "in_norm", "out_norm", "post_enc"))
        refused = refused or _offsets(file, [f"post_encs.{j}" for j in numbers if f"post_encs.{j}" in file])
        if part.says("divide_cross_layer") and "W_skip" in file:
            refused = refused or "divide_cross_layer with skip maps was never compared with the library's own numbers"
        writes: dict[str, Rows] = {}
        for j in numbers:
            written = keys[source + j][1]
            # Targets take the mean of what earlier layers write, if the config says so.
            share = 1 / (source + j) if part.says("divide_cross_layer") and j else 1.0
            rows = file["W_dec"][:] if tied else file[f"W_decs.{j}"][:]
            scale = f"post_enc_scales.{j}"
            factor = partial(_factor, file[scale].load if scale in file else None, share, part.latents)
            writes[written] = rows if share == 1 and scale not in file else rows.scaled(rows=factor)
            biases[written] += (partial(_times, file[f"b_decs.{j}"].load, share),)
            if f"W_skips.{j}" in file:
                skips[keys[source][0], written] = file[f"W_skips.{j}"][:]
        groups.append(_group(part, keys[source][0], writes))
        plain = not part.says("divide_cross_layer") and not any("post_enc_scales" in name for name in file)
        if tied and plain and part.targets > 1:
            ties.append([(part.hook, written) for written in writes])
    return Blueprint(
        family="cross-layer transcoder",
        slots=slots,
        groups=groups,
        decoder_bias=biases,
        skip=skips,
        ties=ties,
        gate=_gate(parts),
        scales=_scales(parts, keys),
        refused=refused,
        **common,
    )


def _group(part: _Part, read: str, writes: Mapping[str, Rows]) -> GroupPlan:
    return GroupPlan(
        name=part.hook,
        num_latents=part.latents,
        reads={read: part.file["encoder.weight"][:]},
        writes=writes,
        bias=part.file["encoder.bias"].load,
    )


def _gate(parts: Sequence[_Part]) -> GatePlan:
    k = integer(parts[0].config, "k", parts[0].path)
    return GatePlan(name="topk", k=k, by="activation", per_group=True)


def _offsets(file: TensorFile, names: Sequence[str]) -> str:
    """A post-encoder offset adds a constant to whatever is active, which rows times activations cannot say."""
    moved = [name for name in names if bool(file[name].load().any())]
    if not moved:
        return ""
    return f"'{moved[0]}' in {file.path} is not zero: an active latent writes a constant beside its activation"


def _scales(parts: Sequence[_Part], keys: Sequence[tuple[str, str]]) -> dict[str, float]:
    scales = {}
    for part, (read, written) in zip(parts, keys, strict=True):
        if part.says("normalize_io"):
            for name, key in (("in_norm", read), ("out_norm", written)):
                if name not in part.file:
                    raise CheckpointError(f"{part.path} says normalize_io, but {part.file.path} has no '{name}'")
                scales[key] = part.width**0.5 / float(part.file[name].load())
    return scales


def _factor(scale: Callable[[], Tensor] | None, share: float, count: int) -> Tensor:
    return share * (scale() if scale else torch.ones(count))


def _times(vector: Callable[[], Tensor], share: float) -> Tensor:
    return share * vector()
