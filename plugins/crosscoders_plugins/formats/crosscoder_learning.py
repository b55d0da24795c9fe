"""science-of-finetuning's `crosscoder_learning` in all its eras, and its ancestor by jkminder.

`encoder.weight` (L, d, F), `decoder.weight` (L, F, d), `encoder.bias`, `decoder.bias` (L, d). Later eras add, in order:
`code_normalization_id`, `k`, `threshold`; `target_rms`, `activation_mean`, `activation_std`, `activation_global_scale`
(one for all layers, then one for each). x' = (x - mean)·g, f = relu(Σ x' W + b), kept where f·n > θ; n by the code
normalisation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from crosscoders import CheckpointError, CheckpointFormat, Crosscoder
from crosscoders.authoring import Answers, Blueprint, GatePlan, GroupPlan, Question, Slot, Source, TensorFile

from .common import agree, integer, ones, only_weights, shapes, text, transposed_warning

WEIGHTS = ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")
ACTIVATIONS = ("target_rms", "activation_mean", "activation_std", "activation_global_scale")
CODES = {1: "CROSSCODER", 2: "SAE", 3: "MIXED", 4: "NONE", 5: "DECOUPLED"}
CLASSES = ("CrossCoder", "BatchTopKCrossCoder")


class CrosscoderLearning(CheckpointFormat):
    """Reader and writer."""

    name = "crosscoder_learning"

    def __init__(self, options: object) -> None:
        pass

    def detect(self, source: Source) -> bool:
        path = _weights(source)
        return bool(path) and shapes(source.tensors(path), *WEIGHTS)[0::2] == [3, 3]

    def inspect(self, source: Source, answers: Answers) -> Blueprint:
        path = _weights(source)
        if not path:
            raise CheckpointError(f"{source.name} has no weights of '{self.name}', or several; name the file")
        file, config = source.tensors(path), _config(source)
        era, batchtopk = _era(file, config)
        layers, width, latents = _sizes(file, config)
        code = _code(file, config)
        gate, threshold, questions, warnings, refused = _gate(file, config, answers, code, batchtopk)
        means, scales = _normaliser(file, layers)
        if code == "DECOUPLED" and means and not refused:
            warnings.append(
                "its own code normalises activations twice for this code normalisation; here it is done once"
            )
        for key in ("encoder_layers", "num_decoder_layers", "latent_processor"):
            if config.get(key) is not None:
                refused = f"config.json sets '{key}', a variant in which encoder and decoder differ in layers"
        W_enc, W_dec = file["encoder.weight"], file["decoder.weight"]
        keys = [str(n) for n in range(layers)]
        if width == latents:
            warnings += transposed_warning(W_enc[0].T.load, W_dec[0].load)
        group = GroupPlan(
            name="all",
            num_latents=latents,
            reads={key: W_enc[n].T for n, key in enumerate(keys)},
            writes={key: W_dec[n] for n, key in enumerate(keys)},
            bias=file["encoder.bias"].load,
            threshold=ones(latents, threshold),
        )
        return Blueprint(
            format=self.name,
            family="crosscoder",
            version=f"era {era}, {'BatchTopKCrossCoder' if batchtopk else 'CrossCoder'}, code normalisation {code}",
            slots=tuple(
                Slot(
                    key=key,
                    width=width,
                    what=f"number {key} of {layers} models or layers",
                    example=f"{model}/layers.13",
                )
                for key, model in zip(
                    keys, ("base", "chat") if layers == 2 else [f"model{n}" for n in keys], strict=True
                )
            ),
            groups=(group,),
            decoder_bias={
                key: (file["decoder.bias"][n].load, *([means[key]] if means else [])) for n, key in enumerate(keys)
            },
            subtract=means,
            scales=scales,
            gate=gate,
            questions=questions,
            dtype=W_enc.dtype,
            size=sum(tensor.size for tensor in file.values()),
            config={"config.json": config} if config else {},
            changes=("the mean of activations was folded into the biases",) if means else (),
            assumed=("no config: sizes and era are those of the tensors",) if not config else (),
            warnings=warnings,
            refused=refused,
        )

    def check(self, crosscoder: Crosscoder) -> list[str]:
        group, names = crosscoder.wiring.groups[0], crosscoder.layout.names
        if len(crosscoder.wiring.groups) > 1 or group.reads != names or group.writes != names or crosscoder.wiring.skip:
            raise CheckpointError(
                f"the format '{self.name}' holds one group of latents that reads and writes all sites"
            )
        if len({site.width for site in crosscoder.sites}) > 1:
            raise CheckpointError(f"the format '{self.name}' needs sites of one width")
        gate = crosscoder.gate
        if gate.name not in ("relu", "score_threshold") or (
            gate.name == "score_threshold" and gate.get_buffer("threshold").dim()
        ):
            raise CheckpointError(
                f"the format '{self.name}' holds relu and one score threshold for all latents, not {gate.name}"
                f"{' with one for each' if gate.name == 'score_threshold' else ''}"
            )
        crosscoder.normaliser.require_known()
        changes = [f"names of sites ({', '.join(names)}) are left out; their order stays"]
        if gate.name == "score_threshold":
            changes.append(
                "the k that was trained with is not known here; the file says 1, which only training would use"
            )
        return changes

    def write(self, crosscoder: Crosscoder, folder: Path) -> None:
        layers, width, latents = len(crosscoder.sites), crosscoder.sites[0].width, crosscoder.num_latents
        W_enc, W_dec = crosscoder.encoder_weight(0), crosscoder.decoder_weight(0)
        batchtopk = crosscoder.gate.name == "score_threshold"
        scale_S = crosscoder.normaliser.scale_S
        tensors: dict[str, Tensor] = {
            "encoder.weight": W_enc.view(latents, layers, width).permute(1, 2, 0),
            "encoder.bias": crosscoder.b_enc_F,
            "decoder.weight": W_dec.view(latents, layers, width).permute(1, 0, 2),
            "decoder.bias": crosscoder.b_dec_X.view(layers, width),
            "code_normalization_id": torch.tensor(1),
            # mean 0 and one std for all columns make its scale target_rms / sqrt(Σ std²) equal to ours.
            "target_rms": torch.tensor(float(width) ** 0.5),
            "activation_mean": torch.zeros(layers, width),
            "activation_std": (1 / scale_S)[:, None].expand(layers, width),
            "activation_global_scale": scale_S,
        }
        if batchtopk:
            tensors |= {"k": torch.tensor(1, dtype=torch.int32), "threshold": crosscoder.gate.get_buffer("threshold")}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        config: dict[str, Any] = {
            "activation_dim": width,
            "dict_size": latents,
            "num_layers": layers,
            "code_normalization": "CROSSCODER",
            "dict_class": CLASSES[batchtopk],
            "norm_init_scale": 1.0,
            "target_rms": float(width) ** 0.5,
            "activation_mean": None,
            "activation_std": None,
        }
        if batchtopk:
            config["k"] = 1
        (folder / "config.json").write_text(json.dumps(config, indent=1))


def _weights(source: Source) -> str:
    if "model.safetensors" in source:
        return "model.safetensors"
    return only_weights(source, ".pt")


def _config(source: Source) -> dict[str, Any]:
    """Of a training folder `config.json` is another thing, `{"trainer", "buffer"}`; tensors say what it does not."""
    if "config.json" not in source:
        return {}
    config = source.json("config.json")
    if isinstance(config.get("trainer"), dict):
        known = ("activation_dim", "dict_size", "num_layers", "k", "dict_class")
        return {key: value for key, value in config["trainer"].items() if key in known}
    if "trainer_config.json" in source and "dict_class" not in config:
        trainer = source.json("trainer_config.json").get("trainer", {})
        if isinstance(trainer, dict) and "dict_class" in trainer:
            config["dict_class"] = trainer["dict_class"]
    return config


def _era(file: TensorFile, config: Mapping[str, Any]) -> tuple[int, bool]:
    """Which era the set of tensors is of, whole; and whether the class is BatchTopKCrossCoder."""
    name = text(config, "dict_class", "config.json") or None
    if name is not None and name not in CLASSES:
        raise CheckpointError(f"config.json says dict_class = {name!r}; known are {', '.join(CLASSES)}")
    batchtopk = name == CLASSES[1] or (name is None and ("threshold" in file or "k" in file or "k" in config))
    expected = [*WEIGHTS]
    era = 1
    if batchtopk or "code_normalization_id" in file or "code_normalization" in config:
        expected.append("code_normalization_id")
        era = 2
    if batchtopk:
        expected += ["k", "threshold"]
    if "activation_mean" in config or any(key in file for key in ACTIVATIONS):
        expected += ACTIVATIONS
        era = 3
    file.take(*expected)
    layers, width, latents = file.shape_of("encoder.weight", 3)
    scalars = [name for name in ("code_normalization_id", "k", "target_rms") if name in expected]
    shapes = dict.fromkeys(("activation_mean", "activation_std") if era == 3 else (), (layers, width))
    file.expect({**shapes, **dict.fromkeys(scalars, ())}, "its era")
    if batchtopk:
        integer({"k": file["k"].item()}, "k", file.path)
        if file["k"].item() > latents:
            raise CheckpointError(f"'k' in {file.path} is {file['k'].item()}, but there are {latents} latents")
    if era == 3 and file["activation_global_scale"].shape not in ((), (layers,)):
        raise CheckpointError(
            f"'activation_global_scale' in {file.path} has shape {file['activation_global_scale'].shape}, "
            f"neither one number nor one for each of {layers} layers"
        )
    if era == 3 and file["activation_global_scale"].shape:
        era = 5 if name is not None else 4
    return era, batchtopk


def _sizes(file: TensorFile, config: Mapping[str, Any]) -> tuple[int, int, int]:
    layers, width, latents = file.shape_of("encoder.weight", 3)
    file.expect(
        {"decoder.weight": (layers, latents, width), "encoder.bias": (latents,), "decoder.bias": (layers, width)},
        "'encoder.weight'",
    )
    agree(config, "config.json", {"activation_dim": width, "dict_size": latents, "num_layers": layers}, file.path)
    return layers, width, latents


def _code(file: TensorFile, config: Mapping[str, Any]) -> str:
    said = text(config, "code_normalization", "config.json") or None
    if "code_normalization_id" not in file:
        return str(said or "CROSSCODER")
    number = file["code_normalization_id"].item()
    if number not in CODES:
        raise CheckpointError(
            f"'code_normalization_id' in {file.path} is {number}; known are {', '.join(map(str, CODES))}"
        )
    if said is not None and said != CODES[number]:
        raise CheckpointError(
            f"config.json says code_normalization = {said!r}, but 'code_normalization_id' in {file.path} is {number}, "
            f"{CODES[number]}"
        )
    return CODES[number]


def _gate(
    file: TensorFile, config: Mapping[str, Any], answers: Answers, code: str, batchtopk: bool
) -> tuple[GatePlan, float, list[Question], list[str], str]:
    """The gate, the threshold, what to ask, warnings, and why it cannot be held."""
    if not batchtopk:
        return GatePlan(), 0.0, [], [], ""
    if code == "DECOUPLED":
        return (
            GatePlan(),
            0.0,
            [],
            [],
            (
                "with the code normalisation DECOUPLED a latent is on or off at each layer by itself, and ours are one "
                "number for all sites"
            ),
        )
    threshold = float(file["threshold"].item())
    if not isfinite(threshold):
        raise CheckpointError(f"'threshold' in {file.path} is {threshold}")
    if threshold < 0:
        return (
            GatePlan(),
            0.0,
            [],
            [f"the threshold is {threshold:g}, that is, it was never estimated; relu stands in"],
            "",
        )
    if code == "CROSSCODER":
        return GatePlan(name="score_threshold", score_threshold=threshold), threshold, [], [], ""
    if code == "MIXED":
        questions, divisor = [], []
        for key, example in (("alpha_sae", 1.0), ("alpha_cc", 0.1)):
            alpha = Question(key=key, text=f"no file says {key} of the code normalisation MIXED", example=example)
            said = config.get(f"code_normalization_{key}")
            if said is None:
                questions.append(alpha)
            divisor.append(float(answers.to(alpha) if said is None else alpha.check(said)))
        return GatePlan(name="jumprelu", divisor=(divisor[0], divisor[1])), threshold, questions, [], ""
    return GatePlan(name="jumprelu", divisor=(1.0, 0.0) if code == "SAE" else (0.0, 0.0)), threshold, [], [], ""


def _normaliser(file: TensorFile, layers: int) -> tuple[dict[str, Any], dict[str, float]]:
    """By layer what is subtracted of scaled activations, and the scale; both empty where there is no normaliser."""
    if "activation_mean" not in file:
        return {}, {}
    whole = (slice(None), slice(None))
    for name in ("activation_mean", "activation_std"):
        file[name][:].check_type()
    mean, std = (file[name].read(whole).float() for name in ("activation_mean", "activation_std"))
    if bool(mean.isnan().all()) and bool(std.isnan().all()):
        return {}, {}
    for name, value in (("activation_mean", mean), ("activation_std", std)):
        wrong = int((~torch.isfinite(value)).sum())
        if wrong:
            raise CheckpointError(f"'{name}' in {file.path} has {wrong} values that are NaN or infinite; it is damaged")
    gain = file["activation_global_scale"].load().expand(layers)
    if bool((gain <= 0).any()):
        raise CheckpointError(f"'activation_global_scale' in {file.path} is {gain.tolist()}; scales are positive")

    def scaled(n: int) -> Tensor:
        return mean[n] * gain[n]

    keys = [str(n) for n in range(layers)]
    return {key: partial(scaled, n) for n, key in enumerate(keys)}, {key: float(gain[n]) for n, key in enumerate(keys)}
