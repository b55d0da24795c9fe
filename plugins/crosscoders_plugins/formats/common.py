"""What readers of several families share: names of hooks as sites, checked config values, the one file of weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from crosscoders import CheckpointError
from crosscoders.authoring import Answers, GatePlan, Question, Source, TensorFile, Vector, View

_HOOKS = {
    "hook_resid_post": "",
    "hook_resid_pre": ".input",
    "hook_attn_out": ".attention",
    "hook_mlp_out": ".mlp",
    "ln2.hook_normalized": ".mlp_input",
    "mlp.hook_in": ".mlp_input",
    "mlp.hook_out": ".mlp",
}
"""TransformerLens' hooks that are points of our transformers adapter."""
_MODULES = {"output": "", "mlp": ".mlp", "mlp.output": ".mlp", "mlp.input": ".mlp_input", "": ""}


def hook_site(hook: str, model: str = "model") -> str:
    """The site of a hook of TransformerLens (`blocks.3.hook_mlp_out`) or of a module (`model.layers.3.mlp`).

    One that no point of ours equals keeps its own name.
    """
    found = re.fullmatch(r"blocks\.(\d+)\.(.+)", hook)
    if found and found[2] in _HOOKS:
        return f"{model}/layers.{found[1]}{_HOOKS[found[2]]}"
    found = re.fullmatch(r"(?:\w+\.)*(?:layers|h|blocks)\.(\d+)\.?(.*)", hook)
    if found and found[2] in _MODULES:
        return f"{model}/layers.{found[1]}{_MODULES[found[2]]}"
    return f"{model}/" + re.sub(r"[^\w.-]", "-", hook)


def site_hook(point: str) -> str:
    """TransformerLens' name of a point of ours, where it has one."""
    found = re.fullmatch(r"layers\.(\d+)(\.\w+)?", point)
    names = {part: hook for hook, part in reversed(_HOOKS.items())}
    hook = names.get(found[2] or "") if found else None
    return f"blocks.{found[1]}.{hook}" if found and hook else point


def integer(config: Mapping[str, Any], key: str, path: str, *, least: int = 1) -> int:
    """A whole number of a config."""
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise CheckpointError(f"{path} should have a whole number from {least} on at '{key}', not {value!r}")
    return value


def unsaid_gate(answers: Answers, why: str, latents: int) -> tuple[GatePlan, list[Question]]:
    """The gate where no file says it: relu, as libraries take such files, unless topk and its k are answered."""
    gate = Question(key="gate", text=why, example="topk", assumed="relu", choices=("relu", "topk"))
    if answers.to(gate) == "relu":
        return GatePlan(), [gate]
    k = Question(key="k", text="no file says how many latents each token keeps in a group", example=min(32, latents))
    return GatePlan(name="topk", k=answers.to(k), by="activation", per_group=True), [gate, k]


def flag(config: Mapping[str, Any], key: str, path: str, *, default: bool) -> bool:
    """A yes or no of a config, `default` where it says nothing."""
    value = config.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise CheckpointError(f"{path} should have true or false at '{key}', not {value!r}")
    return value


def text(config: Mapping[str, Any], key: str, path: str, *, default: str = "") -> str:
    """A text of a config, `default` where it says nothing."""
    value = config.get(key)
    if value is None:
        return default
    if not isinstance(value, str):
        raise CheckpointError(f"{path} should have a text at '{key}', not {value!r}")
    return value


def texts(config: Mapping[str, Any], key: str, path: str) -> list[str]:
    """A list of texts of a config, empty where it says nothing."""
    value = config.get(key) or []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise CheckpointError(f"{path} should have a list of texts at '{key}', not {value!r}")
    return value


def table(config: Mapping[str, Any], key: str, path: str) -> dict[str, Any]:
    """A table inside a config, empty where it says nothing."""
    value = config.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} should have a table at '{key}', not {value!r}")
    return value


def named_model(config: Mapping[str, Any], key: str, path: str, *, role: str = "model") -> dict[str, str]:
    """The model that a config names, as a blueprint's `models`."""
    name = text(config, key, path)
    return {role: name} if name else {}


def only_weights(source: Source, *suffixes: str) -> str:
    """The one file with such a suffix at the root, "" if there is none or more than one."""
    found = [name for suffix in suffixes for name in source.matching(f"*{suffix}")]
    return found[0] if len(found) == 1 else ""


def shapes(file: TensorFile, *names: str) -> list[int]:
    """The number of axes of each tensor, -1 where it is missing."""
    return [len(file[name].shape) if name in file else -1 for name in names]


def agree(config: Mapping[str, Any], path: str, sizes: Mapping[str, int], weights: str) -> None:
    """`CheckpointError` where the config says another size than the tensors have."""
    for key, size in sizes.items():
        if key in config and config[key] is not None and config[key] != size:
            raise CheckpointError(f"{path} says {key} = {config[key]!r}, but the tensors in {weights} mean {size}")


def ones(count: int, value: float = 1.0) -> Vector:
    """The same number for each latent."""
    return lambda: torch.full((count,), value)


def exp(view: View, *, not_negative: bool = True) -> Vector:
    """exp of a stored vector: thresholds that are kept as logarithms."""
    return lambda: _finite(view.load().exp(), view.label)


def threshold(view: View) -> Vector:
    """A stored threshold of a library without a relu, where one below zero lets negative latents through."""

    def load() -> Tensor:
        value = view.load()
        if bool((value < 0).any()):
            raise CheckpointError(
                f"{view.label} has {int((value < 0).sum())} thresholds below 0, which let negative latents through; "
                "latents here are never negative"
            )
        return value

    return load


def total(vectors: Iterable[View]) -> Vector:
    """The sum of stored vectors."""
    parts = list(vectors)
    return lambda: torch.stack([part.load() for part in parts]).sum(dim=0)


def transposed_warning(encoder: Callable[[], Tensor], decoder: Callable[[], Tensor]) -> tuple[str, ...]:
    """Where as many latents as columns hide which axis is which: a warning if the other reading fits clearly better.

    Latents mostly write what they read, so rows of encoder and decoder point alike.
    """
    cosine = torch.nn.functional.cosine_similarity
    W_enc, W_dec = encoder(), decoder()
    as_read, other = float(cosine(W_enc, W_dec, dim=1).mean()), float(cosine(W_enc.T, W_dec, dim=1).mean())
    if other <= as_read + 0.2:
        return ()
    return (
        f"the encoder may be transposed: its rows have a mean cosine of {as_read:.2f} with the decoder's, its columns "
        f"{other:.2f}, and with as many latents as columns shapes do not tell; it was read in the format's own order",
    )


def _finite(value: Tensor, label: str) -> Tensor:
    if not bool(torch.isfinite(value).all()):
        raise CheckpointError(f"{label} has values whose exponential is not finite")
    return value
