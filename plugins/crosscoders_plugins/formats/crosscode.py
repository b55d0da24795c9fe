"""crosscode (and its forks): `model.pt` with `model_cfg.yaml`.

Acausal over models and hook points: `_W_enc_XiDiL` (M, P, d, F), `_W_dec_LXoDo` (F, M, P, d); from one place to several
layers: `_W_enc_XiDiL` (d, F), `_W_dec_LXoDo` (F, P, d), with a skip map (d, P, d). Scaling factors of activations are
folded into the weights when it saves, and are in no file otherwise.
"""

from __future__ import annotations

from typing import Any

import torch

from crosscoders import CheckpointError, CheckpointFormat
from crosscoders.authoring import Answers, Blueprint, GatePlan, GroupPlan, Question, Slot, Source, View

from .common import agree, exp, flag, only_weights, table, text, unsaid_gate

CONFIG = "model_cfg.yaml"
ENCODER, DECODER, BIAS, LOGS = "_W_enc_XiDiL", "_W_dec_LXoDo", "_b_dec_XoDo", "_activation_fn.log_threshold_L"
FOLDED = ("folded_scaling_factors_in_Xi", "folded_scaling_factors_out_Xo", "is_folded")
ACTIVATIONS = {
    "ReLUActivation": "relu",
    "AnthropicSTEJumpReLUActivation": "jumprelu",
    "TopkActivation": "topk",
    "BatchTopkActivation": "batchtopk",
    "GroupMaxActivation": "groupmax",
}


class Crosscode(CheckpointFormat):
    """Reader."""

    name = "crosscode"

    def __init__(self, options: object) -> None:
        pass

    def detect(self, source: Source) -> bool:
        if CONFIG in source:
            source.yaml(CONFIG)
        path = only_weights(source, ".pt")
        return bool(path) and {ENCODER, DECODER} <= set(source.tensors(path))

    def inspect(self, source: Source, answers: Answers) -> Blueprint:
        path = only_weights(source, ".pt")
        file = source.tensors(path)
        config = source.yaml(CONFIG) if CONFIG in source else {}
        W_enc, W_dec = file[ENCODER], file[DECODER]
        if len(W_enc.shape) not in (2, 3, 4) or len(W_dec.shape) < 2:
            raise CheckpointError(f"'{ENCODER}' and '{DECODER}' in {path} have shapes {W_enc.shape} and {W_dec.shape}")
        latents, width = W_enc.shape[-1], W_enc.shape[-2]
        kind, refused = _activation(config)
        kind = kind or ("jumprelu" if LOGS in file else "")
        gate = GatePlan(name="jumprelu" if kind == "jumprelu" else "relu")
        questions: list[Question] = []
        if not kind:
            gate, questions = unsaid_gate(
                answers, f"there is no {CONFIG}, and the weights of a relu and of a topk are alike", latents
            )
        read, written = W_enc.shape[:-2], W_dec.shape[1:-1]
        if W_dec.shape[0] != latents:
            raise CheckpointError(f"'{ENCODER}' in {path} has {latents} latents and '{DECODER}' {W_dec.shape[0]}")
        out = W_dec.shape[-1]
        agree(config, CONFIG, {"n_latents": latents, "d_model": width}, path)
        biases = [name for name in ("b_enc_L", BIAS) if name in file]
        for key, name in (("use_encoder_bias", "b_enc_L"), ("use_decoder_bias", BIAS)):
            if flag(config, key, CONFIG, default=False) and name not in file:
                raise CheckpointError(f"{CONFIG} says {key}, but {path} has no tensor '{name}'")
        expected = [ENCODER, DECODER, *biases, *([LOGS] if kind == "jumprelu" else [])]
        file.take(*expected, optional=(*FOLDED, "W_skip_DPD"))
        if kind == "jumprelu":
            file.expect({LOGS: (latents,)}, f"'{ENCODER}'")
        if "b_enc_L" in file:
            file.expect({"b_enc_L": (latents,)}, f"'{ENCODER}'")
        if BIAS in file:
            file.expect({BIAS: (*written, out)}, f"'{DECODER}'")
        slots, ins, outs = _slots(read, written, width, out)
        skip = {}
        if "W_skip_DPD" in file:
            file.expect({"W_skip_DPD": (width, *written, out)}, f"'{DECODER}'")
            skip = {
                (ins[0], key): _at(file["W_skip_DPD"], (slice(None), *_place(n, written))).T
                for n, key in enumerate(outs)
            }
        folded = bool(file["is_folded"].item()) if "is_folded" in file else False
        group = GroupPlan(
            name="all",
            num_latents=latents,
            reads={key: _at(W_enc, _place(n, read)).T for n, key in enumerate(ins)},
            writes={key: _at(W_dec, (slice(None), *_place(n, written))) for n, key in enumerate(outs)},
            bias=file["b_enc_L"].load if "b_enc_L" in file else None,
            threshold=exp(file[LOGS][:]) if kind == "jumprelu" and LOGS in file else None,
        )
        return Blueprint(
            format=self.name,
            family="crosscoder" if ins == outs else "transcoder to several layers",
            version="folded" if folded else "not folded",
            slots=slots,
            groups=(group,),
            decoder_bias={key: (_at(file[BIAS], _place(n, written)).load,) for n, key in enumerate(outs)}
            if BIAS in file
            else {},
            skip=skip,
            gate=gate,
            questions=questions,
            unknown_scales=() if folded else tuple(slot.key for slot in slots),
            dtype=W_enc.dtype,
            size=sum(tensor.size for tensor in file.values()),
            config={CONFIG: config} if config else {},
            assumed=("its scaling factors are in the weights already, so raw activations go in",) if folded else (),
            refused=refused,
        )


def _activation(config: dict[str, Any]) -> tuple[str, str]:
    """What the config calls it, "" where it does not say, and why it cannot be held."""
    name = text(table(config, "activation_fn", CONFIG), "classname", CONFIG)
    if not name:
        return "", ""
    if name not in ACTIVATIONS:
        raise CheckpointError(f"{CONFIG} says an activation of the class {name!r}; known are {', '.join(ACTIVATIONS)}")
    kind = ACTIVATIONS[name]
    if kind == "topk":
        return kind, "its topk keeps the largest without a relu, so latents may be negative, and ours never are"
    if kind in ("batchtopk", "groupmax"):
        return kind, f"its {kind} keeps what is largest in the batch, without a relu, so latents depend on other tokens"
    return kind, ""


def _slots(
    read: tuple[int, ...], written: tuple[int, ...], width: int, out: int
) -> tuple[list[Slot], list[str], list[str]]:
    if read == written and width == out:
        keys = [".".join(map(str, _place(n, read))) or "0" for n in range(_count(read))]
        what = "model {}, hook point {}" if len(read) == 2 else "number {}"
        example = "model{}/layers.{}" if len(read) == 2 else "model/layers.{}"
        slots = [
            Slot(key=key, width=width, what=what.format(*place), example=example.format(*place))
            for key, place in zip(keys, (_place(n, read) or (0,) for n in range(_count(read))), strict=True)
        ]
        return slots, keys, keys
    ins = [f"in.{n}" if read else "in" for n in range(_count(read))]
    outs = [f"out.{n}" for n in range(_count(written))]
    slots = [
        Slot(key=key, width=width, what="read", example=f"model/layers.{n}.mlp_input") for n, key in enumerate(ins)
    ]
    return (
        [
            *slots,
            *(Slot(key=key, width=out, what="written", example=f"model/layers.{n}.mlp") for n, key in enumerate(outs)),
        ],
        ins,
        outs,
    )


def _count(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())


def _place(number: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The index of an entry, by its number in reading order."""
    place = []
    for size in reversed(shape):
        place.append(number % size)
        number //= size
    return tuple(reversed(place))


def _at(stored: Any, index: tuple[int | slice, ...]) -> View:
    found = stored[index] if index else stored[()]
    assert isinstance(found, View)
    return found
