"""The crosscoder of Kissane et al.'s replication and its copies (two models, or any number of models or layers).

https://github.com/ckkissane/crosscoder-model-diff-replication: `W_enc` (n, d, F), `W_dec` (F, n, d), `b_enc`, `b_dec`
(n, d); f = relu(Σ x W_enc + b_enc). What activations were multiplied by is in no file. A relative with dedicated
features (https://github.com/Antebe/model_diffing_crosscoders) keeps the k largest, k in `config.json`; its `dec_mask`
(F, n) says which rows are written, and its `enc_mask` is not used when encoding.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from crosscoders import CheckpointError, CheckpointFormat, Crosscoder
from crosscoders.authoring import Answers, Blueprint, GatePlan, GroupPlan, Question, Slot, Source, TensorFile, View

from .common import agree, hook_site, integer, only_weights, shapes, site_hook, text, transposed_warning, unsaid_gate

TENSORS = ("W_enc", "W_dec", "b_enc", "b_dec")
MASKS = ("enc_mask", "dec_mask")


class Ckkissane(CheckpointFormat):
    """Reader and writer."""

    name = "ckkissane"

    def __init__(self, options: object) -> None:
        pass

    def detect(self, source: Source) -> bool:
        if _config_path(source) and not only_weights(source, ".pt"):
            config = source.json(_config_path(source))
            return {"d_in", "dict_size", "enc_dtype"} <= set(config) and bool(source.matching("*.pt"))
        path = only_weights(source, ".pt")
        return bool(path) and shapes(source.tensors(path), *TENSORS) == [3, 3, 1, 2]

    def inspect(self, source: Source, answers: Answers) -> Blueprint:
        path = only_weights(source, ".pt")
        if not path:
            raise CheckpointError(
                f"{source.name} has several checkpoints: {', '.join(source.matching('*.pt'))}; name the file, as in "
                f"{source.name}/{source.matching('*.pt')[-1] if source.matching('*.pt') else '0.pt'}"
            )
        file = source.tensors(path)
        file.take(*TENSORS, optional=MASKS)
        count, width, latents = file.shape_of("W_enc", 3)
        file.expect({"W_dec": (latents, count, width), "b_enc": (latents,), "b_dec": (count, width)}, "'W_enc'")
        config_path = _config_path(source, path)
        config: dict[str, Any] = source.json(config_path) if config_path else {}
        if "d_in" in config:
            integer(config, "d_in", config_path)
            integer(config, "dict_size", config_path)
        agree(config, config_path, {"d_in": width, "activation_dim": width, "dict_size": latents}, path)
        gate = GatePlan()
        questions: list[Question] = []
        if "k" in config:
            gate = GatePlan(name="topk", k=integer(config, "k", config_path), by="activation")
        elif "dict_size" not in config:
            gate, questions = unsaid_gate(
                answers, "no config says it, and the weights of a relu and of a topk are alike", latents
            )
        slots, assumed, models = _slots(config, config_path, count, width)
        W_enc, W_dec = file["W_enc"], file["W_dec"]
        hidden = transposed_warning(W_enc[0].T.load, W_dec[:, 0].load) if width == latents else ()
        numbers = range(count)
        group = GroupPlan(
            name="all",
            num_latents=latents,
            reads={str(n): W_enc[n].T for n in numbers},
            writes={str(n): _masked(W_dec[:, n], file, n) for n in numbers},
            bias=file["b_enc"].load,
        )
        return Blueprint(
            format=self.name,
            family="crosscoder",
            version="hub" if Path(config_path).name == "cfg.json" else "local",
            slots=slots,
            groups=(group,),
            decoder_bias={str(n): (file["b_dec"][n].load,) for n in numbers},
            gate=gate,
            questions=questions,
            unknown_scales=tuple(slot.key for slot in slots),
            models=models,
            dtype=W_enc.dtype,
            size=sum(tensor.size for tensor in file.values()),
            config={config_path: config} if config_path else {},
            assumed=assumed,
            warnings=hidden,
        )

    def check(self, crosscoder: Crosscoder) -> list[str]:
        group = crosscoder.wiring.groups[0]
        names = crosscoder.layout.names
        if len(crosscoder.wiring.groups) > 1 or group.reads != names or group.writes != names or crosscoder.wiring.skip:
            raise CheckpointError(
                f"the format '{self.name}' holds one group of latents that reads and writes all sites"
            )
        if len({site.width for site in crosscoder.sites}) > 1:
            raise CheckpointError(f"the format '{self.name}' needs sites of one width")
        if crosscoder.gate.name != "relu":
            raise CheckpointError(
                f"the format '{self.name}' has no thresholds, and this gate is {crosscoder.gate.name}"
            )
        crosscoder.normaliser.require_known()
        changes = []
        if bool((crosscoder.normaliser.scale_S != 1).any()):
            changes.append("each site's scale is folded into the weights, so that raw activations go in")
        if len(crosscoder.sites) != 2:
            changes.append(f"its loader expects two models; this has {len(crosscoder.sites)} sites")
        return [*changes, f"names of sites ({', '.join(names)}) are left out; their order stays"]

    def write(self, crosscoder: Crosscoder, folder: Path) -> None:
        folded = crosscoder.folded()
        count, width, latents = len(crosscoder.sites), crosscoder.sites[0].width, crosscoder.num_latents
        tensors = {
            "W_enc": folded["W_enc.0"].view(latents, count, width).permute(1, 2, 0).contiguous(),
            "W_dec": folded["W_dec.0"].view(latents, count, width).contiguous(),
            "b_enc": folded["b_enc_F"],
            "b_dec": folded["b_dec_X"].view(count, width),
        }
        torch.save({name: tensor.detach().float().cpu() for name, tensor in tensors.items()}, folder / "0.pt")
        models = crosscoder.info.models if crosscoder.info else {}
        model = models.get(crosscoder.sites[0].model, {}).get("model", "")
        config = {
            "d_in": width,
            "dict_size": latents,
            "enc_dtype": "fp32",
            "model_name": model,
            "hook_point": site_hook(crosscoder.sites[0].point),
            "site": crosscoder.sites[0].point,
            "seed": 0,
            "dec_init_norm": 0.08,
            "device": "cpu",
        }
        (folder / "0_cfg.json").write_text(json.dumps(config, indent=1))


def _masked(rows: View, file: TensorFile, number: int) -> View:
    if "dec_mask" not in file:
        return rows
    file.expect({"dec_mask": (*rows.shape[:1], file["W_enc"].shape[0])}, "'W_dec'")
    return rows.scaled(rows=file["dec_mask"][:, number].load)


def _config_path(source: Source, weights: str = "") -> str:
    stem = weights.removesuffix(".pt")
    named = [f"{stem}_cfg.json"] if stem else source.matching("*_cfg.json")
    return next((path for path in (*named, "cfg.json", "cc_cfg.json", "config.json") if path in source), "")


def _slots(
    config: dict[str, Any], path: str, count: int, width: int
) -> tuple[tuple[Slot, ...], tuple[str, ...], dict[str, str]]:
    hook, model = text(config, "hook_point", path), text(config, "model_name", path)
    if count == 2 and hook:
        keys = ("base", "chat")
        slots = tuple(
            Slot(key=str(n), width=width, site=hook_site(hook, key), what=f"{key} model, {hook}")
            for n, key in enumerate(keys)
        )
        assumed = ("slot 0 is the base model and slot 1 the instruction-tuned one, as in the code that trains them",)
        return slots, assumed, {"base": model} if model else {}
    slots = tuple(
        Slot(key=str(n), width=width, what=f"number {n} of {count} models or layers", example=f"model/layers.{n}")
        for n in range(count)
    )
    return slots, () if config else ("no config: sizes are those of the tensors",), {"model": model} if model else {}
