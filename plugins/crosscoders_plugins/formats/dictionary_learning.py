"""saprmarks' `dictionary_learning`: seven classes of sparse autoencoder, in `ae.pt` with a trainer's `config.json`.

All subtract the decoder's bias before encoding, except `AutoEncoderNew` and `JumpReluAutoEncoder`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from attrs import frozen
from torch import Tensor

from crosscoders import CheckpointError, CheckpointFormat
from crosscoders.authoring import Answers, Blueprint, GatePlan, GroupPlan, Question, Slot, Source, TensorFile

from .common import agree, flag, integer, named_model, ones, only_weights, shapes, table, text


@frozen
class _Class:
    """What a class of theirs stores and does."""

    tensors: tuple[str, ...]
    bias: str
    """The decoder's bias."""
    encoder_bias: str = "encoder.bias"
    subtracts: bool = True
    gate: str = "relu"
    transposed: bool = False
    """Weights as `W_enc` (d, F), `W_dec` (F, d) instead of the two linear layers."""
    optional: tuple[str, ...] = ()


CONFIG = "config.json"
_LINEAR = ("encoder.weight", "encoder.bias", "decoder.weight")
_MATRICES = ("W_enc", "b_enc", "W_dec", "b_dec")
CLASSES = {
    "AutoEncoder": _Class((*_LINEAR, "bias"), "bias"),
    "AutoEncoderNew": _Class((*_LINEAR, "decoder.bias"), "decoder.bias", subtracts=False),
    "AutoEncoderTopK": _Class((*_LINEAR, "b_dec"), "b_dec", gate="topk", optional=("k", "threshold")),
    "BatchTopKSAE": _Class((*_LINEAR, "b_dec", "threshold"), "b_dec", gate="threshold", optional=("k",)),
    "GatedAutoEncoder": _Class(
        ("encoder.weight", "decoder.weight", "decoder_bias", "r_mag", "gate_bias", "mag_bias"),
        "decoder_bias",
        "mag_bias",
        gate="gated",
    ),
    "MatryoshkaBatchTopKSAE": _Class(
        (*_MATRICES, "threshold"), "b_dec", "b_enc", gate="threshold", transposed=True, optional=("k", "group_sizes")
    ),
    "JumpReluAutoEncoder": _Class(
        (*_MATRICES, "threshold"), "b_dec", "b_enc", subtracts=False, gate="jumprelu", transposed=True
    ),
}


class DictionaryLearning(CheckpointFormat):
    """Reader."""

    name = "dictionary_learning"

    def __init__(self, options: object) -> None:
        pass

    def detect(self, source: Source) -> bool:
        path = only_weights(source, ".pt")
        if not path:
            return False
        file = source.tensors(path)
        linear = shapes(file, "encoder.weight", "decoder.weight") == [2, 2]
        matrices = shapes(file, "W_enc", "W_dec", "b_dec") == [2, 2, 1] and "threshold" in file
        return linear or matrices

    def inspect(self, source: Source, answers: Answers) -> Blueprint:
        path = only_weights(source, ".pt")
        file = source.tensors(path)
        config = source.json(CONFIG) if CONFIG in source else {}
        trainer = table(config, "trainer", CONFIG)
        name, questions = _class_name(file, trainer, answers)
        kind = CLASSES[name]
        file.take(*kind.tensors, optional=kind.optional)
        W_enc, W_dec = (
            (file["W_enc"].T, file["W_dec"][:])
            if kind.transposed
            else (file["encoder.weight"][:], file["decoder.weight"].T)
        )
        latents, width = W_enc.shape
        if W_dec.shape != (latents, width):
            raise CheckpointError(f"encoder and decoder in {path} have sizes {W_enc.shape} and {W_dec.shape}")
        gated = dict.fromkeys(("r_mag", "gate_bias", "mag_bias"), (latents,)) if kind.gate == "gated" else {}
        file.expect({kind.bias: (width,), kind.encoder_bias: (latents,), **gated}, "its encoder")
        agree(trainer, CONFIG, {"activation_dim": width, "dict_size": latents}, path)
        gate, bound, warnings = _gate(file, trainer, kind, latents)
        factor: Callable[[], Tensor] | None = None
        if kind.gate == "gated":
            factor = lambda: file["r_mag"].load().exp()  # noqa: E731
        subtracts = kind.subtracts or flag(trainer, "apply_b_dec_to_input", CONFIG, default=False)
        slot, models = _slot(trainer, width)
        group = GroupPlan(
            name="all",
            num_latents=latents,
            reads={slot.key: W_enc.scaled(rows=factor)},
            writes={slot.key: W_dec},
            bias=file[kind.encoder_bias].load,
            threshold=bound,
        )
        return Blueprint(
            format=self.name,
            family="sparse autoencoder",
            version=name,
            slots=(slot,),
            groups=(group,),
            decoder_bias={slot.key: (file[kind.bias].load,)},
            subtract={slot.key: file[kind.bias].load} if subtracts else {},
            gate=gate,
            questions=questions,
            models=models,
            dtype=W_enc.stored.dtype,
            size=sum(tensor.size for tensor in file.values()),
            config={CONFIG: config} if config else {},
            changes=("the gate and magnitudes became one threshold on magnitudes, which fires alike",)
            if kind.gate == "gated"
            else (),
            assumed=("the library's own loader rescales decoder rows to length 1; the file's own rows are kept",)
            if name == "AutoEncoder"
            else (),
            warnings=warnings,
        )


def _class_name(file: TensorFile, trainer: Mapping[str, Any], answers: Answers) -> tuple[str, list[Question]]:
    said = text(trainer, "dict_class", CONFIG)
    if said and said not in CLASSES:
        raise CheckpointError(f"config.json says dict_class = {said!r}; known are {', '.join(CLASSES)}")
    if said:
        return said, []
    names = set(file)
    fits = [name for name, kind in CLASSES.items() if set(kind.tensors) <= names <= {*kind.tensors, *kind.optional}]
    if not fits:
        raise CheckpointError(f"{file.path} has the tensors {', '.join(sorted(names))}, which no known class has")
    if len(fits) == 1:
        return fits[0], []
    why = f"the file does not say of which class it is: {' or '.join(fits)}"
    question = Question(key="dict_class", text=why, example=fits[0], choices=fits)
    return answers.to(question), [question]


def _gate(
    file: TensorFile, trainer: Mapping[str, Any], kind: _Class, latents: int
) -> tuple[GatePlan, Callable[[], Tensor] | None, list[str]]:
    if kind.gate == "topk":
        k = integer({"k": file["k"].item()}, "k", file.path) if "k" in file else integer(trainer, "k", CONFIG)
        if "k" in trainer and trainer["k"] != k:
            raise CheckpointError(f"config.json says k = {trainer['k']!r}, but 'k' in {file.path} is {k}")
        return GatePlan(name="topk", k=k, by="activation"), None, []
    if kind.gate == "threshold":
        file.expect({"threshold": ()}, "its class")
        value = float(file["threshold"].load())
        if value < 0:
            return GatePlan(), None, [f"the threshold is {value:g}, that is, it was never estimated; relu stands in"]
        return GatePlan(name="jumprelu"), ones(latents, value), []
    if kind.gate == "jumprelu":
        file.expect({"threshold": (latents,)}, "its encoder")
        return GatePlan(name="jumprelu"), file["threshold"].load, []
    if kind.gate == "gated":

        def bound() -> Tensor:
            return file["mag_bias"].load() - file["r_mag"].load().exp() * file["gate_bias"].load()

        return GatePlan(name="jumprelu"), bound, []
    return GatePlan(), None, []


_POINTS = {"resid_post": "", "attention_out": ".attention", "attn_out": ".attention", "mlp_out": ".mlp"}


def _slot(trainer: Mapping[str, Any], width: int) -> tuple[Slot, dict[str, str]]:
    what = text(trainer, "submodule_name", CONFIG)
    found = re.fullmatch(r"(\w+?)_layer_(\d+)", what)
    site = f"model/layers.{found[2]}{_POINTS[found[1]]}" if found and found[1] in _POINTS else ""
    return Slot(key="0", width=width, site=site, what=what), named_model(trainer, "lm_name", CONFIG)
