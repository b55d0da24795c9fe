"""SAELens: sparse autoencoders and transcoders, `cfg.json` with `sae_weights.safetensors`.

`W_enc` (d_in, F), `W_dec` (F, d_out). `apply_b_dec_to_input` is true where a config does not say; BatchTopK is saved as
jumprelu; gated is a jumprelu on magnitudes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from crosscoders import CheckpointError, CheckpointFormat, Crosscoder
from crosscoders.authoring import Answers, Blueprint, GatePlan, GroupPlan, Slot, Source, TensorFile

from .common import agree, flag, hook_site, integer, named_model, site_hook, table, text
from .thresholds import raw_thresholds

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
_PLAIN = ("W_enc", "W_dec", "b_enc", "b_dec")
_JUMP = (*_PLAIN, "threshold")
ARCHITECTURES: dict[str, tuple[str, ...]] = {
    "standard": _PLAIN,
    "jumprelu": _JUMP,
    "topk": _PLAIN,
    "gated": ("W_enc", "W_dec", "b_dec", "b_gate", "b_mag", "r_mag"),
    "transcoder": _PLAIN,
    "jumprelu_transcoder": _JUMP,
    "skip_transcoder": (*_PLAIN, "W_skip"),
    "jumprelu_skip_transcoder": (*_JUMP, "W_skip"),
}
REFUSED = {
    "abstopk": "its latents may be negative (the largest absolute values are kept), and ours never are",
    "matching_pursuit": "its latents are found one after another from what is left over, not by one product",
    "temporal": "its latents depend on earlier tokens",
}
PER_TOKEN = ("layer_norm", "constant_norm_rescale", "constant_scalar_rescale")


class Saelens(CheckpointFormat):
    """Reader and writer."""

    name = "saelens"

    def __init__(self, options: object) -> None:
        pass

    def detect(self, source: Source) -> bool:
        return CONFIG in source and WEIGHTS in source and {"d_in", "d_sae"} <= set(source.json(CONFIG))

    def inspect(self, source: Source, answers: Answers) -> Blueprint:
        config, file = source.json(CONFIG), source.tensors(WEIGHTS)
        metadata = table(config, "metadata", CONFIG) or config
        architecture = _architecture(config)
        width, latents = integer(config, "d_in", CONFIG), integer(config, "d_sae", CONFIG)
        transcoder = "transcoder" in architecture
        out = integer(config, "d_out", CONFIG) if transcoder else width
        slots, models = _slots(metadata, width, out, transcoder)
        common: dict[str, Any] = {
            "format": self.name,
            "family": "transcoder" if transcoder else "sparse autoencoder",
            "version": f"{architecture}, SAELens {metadata.get('sae_lens_version', 'before 6')}",
            "slots": slots,
            "models": models,
            "size": sum(tensor.size for tensor in file.values()),
            "config": {CONFIG: config},
        }
        normalisation = text(config, "normalize_activations", CONFIG, default="none")
        refused = REFUSED.get(architecture, "")
        if normalisation in PER_TOKEN:
            refused = f"it normalises each token by itself (normalize_activations = {normalisation!r}), ours by site"
        if refused:
            return Blueprint(**common, refused=refused)
        if architecture not in ARCHITECTURES:
            raise CheckpointError(
                f"{CONFIG} says architecture = {architecture!r}; known are {', '.join(ARCHITECTURES)}"
            )
        if normalisation not in ("none", "expected_average_only_in"):
            raise CheckpointError(f"{CONFIG} says normalize_activations = {normalisation!r}, which is not known")
        file.take(*ARCHITECTURES[architecture], optional=("sparsity", "log_feature_sparsity"))
        file.expect({"W_enc": (width, latents), "W_dec": (latents, out), "b_dec": (out,)}, CONFIG)
        agree(config, CONFIG, {"d_in": width, "d_sae": latents}, WEIGHTS)
        if "W_skip" in file:
            file.expect({"W_skip": (out, width)}, CONFIG)
        gate, bound, bias, factor, unit = _gate(config, file, architecture, latents)
        read, written = slots[0].key, slots[-1].key
        subtracts = flag(config, "apply_b_dec_to_input", CONFIG, default=not transcoder)
        if subtracts and out != width:
            raise CheckpointError(f"{CONFIG} says apply_b_dec_to_input, but d_in is {width} and d_out {out}")
        group = GroupPlan(
            name="all",
            num_latents=latents,
            reads={read: file["W_enc"].T.scaled(rows=factor)},
            writes={written: file["W_dec"][:]},
            bias=bias,
            threshold=bound,
        )
        return Blueprint(
            **common,
            groups=(group,),
            decoder_bias={written: (file["b_dec"].load,)},
            subtract={read: file["b_dec"].load} if subtracts else {},
            skip={(read, written): file["W_skip"][:]} if "W_skip" in file else {},
            gate=gate,
            unit_decoder=unit,
            unknown_scales=(read,) if normalisation == "expected_average_only_in" else (),
            dtype=file["W_enc"].dtype,
            changes=("the gate and magnitudes became one threshold on magnitudes, which fires alike",)
            if architecture == "gated"
            else (),
            assumed=("the heads of hook_z lie side by side in the site",)
            if text(config, "reshape_activations", CONFIG) == "hook_z"
            else (),
        )

    def check(self, crosscoder: Crosscoder) -> list[str]:
        wiring = crosscoder.wiring
        if len(wiring.groups) > 1:
            raise CheckpointError(
                f"the format '{self.name}' holds one group of latents, and this has {len(wiring.groups)}"
            )
        group, changes = wiring.groups[0], []
        crosscoder.normaliser.require_known()
        if len(group.reads) > 1 or len(group.writes) > 1:
            if group.reads != group.writes or wiring.skip:
                raise CheckpointError(
                    f"the format '{self.name}' holds one site in and one out, or the same sites in and out side by side"
                )
            changes.append(
                f"the sites {', '.join(group.reads)} lie side by side as one input, which no hook of its own can feed"
            )
        if bool((crosscoder.normaliser.scale_S != 1).any()):
            changes.append("scales are folded into the weights: norms of decoder rows are then in raw units")
        if crosscoder.gate.name == "topk":
            if getattr(crosscoder.gate, "group_sizes", ()):
                raise CheckpointError(f"the format '{self.name}' keeps k of all latents, not of each group")
            if group.reads != group.writes:
                raise CheckpointError(f"the format '{self.name}' has no transcoder that keeps the k largest")
            if getattr(crosscoder.gate, "by", "score") == "score":
                changes.append(
                    "latents are multiplied by their decoder norms, so that its topk ranks them as ours does"
                )
        elif crosscoder.gate.name == "score_threshold":
            changes.append("the score threshold becomes a threshold on each latent")
        elif crosscoder.gate.name not in ("relu", "jumprelu"):
            raise CheckpointError(f"the format '{self.name}' has no gate like '{crosscoder.gate.name}'")
        return changes

    def write(self, crosscoder: Crosscoder, folder: Path) -> None:
        group, folded = crosscoder.wiring.groups[0], crosscoder.folded()
        same, gate = group.reads == group.writes, crosscoder.gate
        W_enc, W_dec, b_enc = folded["W_enc.0"], folded["W_dec.0"], folded["b_enc_F"]
        options: dict[str, Any] = {}
        if gate.name == "topk":
            options = {"k": gate.k, "rescale_acts_by_decoder_norm": False}
            if gate.by == "score":
                norm_F = crosscoder.score_norms().clamp_min(1e-12)
                W_enc, W_dec, b_enc = W_enc * norm_F[:, None], W_dec / norm_F[:, None], b_enc * norm_F
        tensors = {"W_enc": W_enc.T, "W_dec": W_dec, "b_enc": b_enc, "b_dec": folded["b_dec_X"]}
        stem = "" if gate.name == "relu" else "topk" if gate.name == "topk" else "jumprelu"
        if stem == "jumprelu":
            tensors["threshold"] = raw_thresholds(crosscoder)
        if crosscoder.wiring.skip:
            tensors["W_skip"] = folded["W_skip.0"]
        kind = ["skip"] if crosscoder.wiring.skip else []
        architecture = "_".join([*([stem] if stem else []), *kind, "transcoder"]) if not same else stem or "standard"
        tensors = {name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(tensors, folder / WEIGHTS)
        first = crosscoder.layout.subset(group.reads).sites[0]
        models = crosscoder.info.models if crosscoder.info else {}
        metadata = {
            # Below 6 its loader would take the config for an old one and lose what it says.
            "sae_lens_version": "6.54.12",
            "sae_lens_training_version": None,
            "model_name": models.get(first.model, {}).get("model"),
            "hook_name": _hook(group.reads),
            "made_with": f"crosscoders {version('crosscoders')}",
        }
        if not same:
            metadata["hook_name_out"] = _hook(group.writes)
            options["d_out"] = W_dec.shape[1]
        config = {
            "architecture": architecture,
            "d_in": W_enc.shape[1],
            "d_sae": W_enc.shape[0],
            "dtype": "float32",
            "device": "cpu",
            "apply_b_dec_to_input": False,
            "normalize_activations": "none",
            "reshape_activations": "none",
            "metadata": metadata,
            **options,
        }
        (folder / CONFIG).write_text(json.dumps(config, indent=1))


def _architecture(config: Mapping[str, Any]) -> str:
    """Configs before version 6 had the activation's name instead of some architectures."""
    name = text(config, "architecture", CONFIG, default="standard")
    old = text(config, "activation_fn_str", CONFIG) or text(config, "activation_fn", CONFIG)
    return "topk" if name == "standard" and old == "topk" else name


def _gate(
    config: Mapping[str, Any], file: TensorFile, architecture: str, latents: int
) -> tuple[GatePlan, Callable[[], Tensor] | None, Callable[[], Tensor], Callable[[], Tensor] | None, bool]:
    """The gate, thresholds, encoder bias, factor of encoder rows, and whether latents are rescaled by decoder norms."""
    if architecture == "gated":
        file.expect(dict.fromkeys(("b_gate", "b_mag", "r_mag"), (latents,)), CONFIG)

        def growth() -> Tensor:
            return file["r_mag"].load().exp()

        def bound() -> Tensor:
            return file["b_mag"].load() - growth() * file["b_gate"].load()

        return GatePlan(name="jumprelu"), bound, file["b_mag"].load, growth, False
    file.expect({"b_enc": (latents,)}, CONFIG)
    if architecture == "topk":
        k = integer({**table(config, "activation_fn_kwargs", CONFIG), **config}, "k", CONFIG)
        rescaled = flag(config, "rescale_acts_by_decoder_norm", CONFIG, default=False)
        return GatePlan(name="topk", k=k, by="activation"), None, file["b_enc"].load, None, rescaled
    if "threshold" in file:
        file.expect({"threshold": (latents,)}, CONFIG)
        return GatePlan(name="jumprelu"), file["threshold"].load, file["b_enc"].load, None, False
    return GatePlan(), None, file["b_enc"].load, None, False


def _slots(
    metadata: Mapping[str, Any], width: int, out: int, transcoder: bool
) -> tuple[tuple[Slot, ...], dict[str, str]]:
    hook, hook_out = (text(metadata, key, CONFIG) for key in ("hook_name", "hook_name_out"))
    models = named_model(metadata, "model_name", CONFIG)
    read = Slot(key="in" if transcoder else "0", width=width, site=hook_site(hook) if hook else "", what=hook)
    if not transcoder:
        return (read,), models
    site = hook_site(hook_out) if hook_out else ""
    if site == read.site and site:
        raise CheckpointError(f"{CONFIG} names the hook '{hook}' both as what is read and as what is written")
    return (read, Slot(key="out", width=out, site=site, what=hook_out)), models


def _hook(names: tuple[str, ...]) -> str:
    return ", ".join(site_hook(name.partition("/")[2]) for name in names)
