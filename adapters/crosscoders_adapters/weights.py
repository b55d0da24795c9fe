"""Whether the weights in a model's files are the weights of the model, by what the transformers library reports."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

_INNER = r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
WRAPPERS = (rf"^(?:(?:module|base_model\.model)\.|{_INNER})+", rf"(?:{_INNER})+", rf"(?:{_INNER}){{1,9}}")
"""What wrappers (compiled, data-parallel, sharded, checkpointed, adapted) put into the names of weights: before the
whole name, and at up to two places within it."""

SHOWN = 5


def unwrapped(model: nn.Module, info: Mapping[str, Any]) -> str:
    """The part of the files' names that a wrapper left there and that hides all of the missing weights; or ''."""
    surplus = sorted(info["unexpected_keys"])
    plain = [strip(key) for key in surplus]
    if not surplus or any(short == key for short, key in zip(plain, surplus, strict=True)):
        return ""
    there = (
        set(model.state_dict()) - set(info["missing_keys"]) - set(getattr(model, "all_tied_weights_keys", None) or ())
    )
    # Where a weight is there with and without the wrapper's name, which one is meant cannot be known.
    if len(set(plain)) < len(plain) or there & set(plain):
        return ""
    return next(match.group() for pattern in WRAPPERS if (match := re.search(pattern, surplus[0])))


def strip(name: str) -> str:
    """A weight's name without what wrappers put there."""
    for pattern in WRAPPERS:
        name = re.sub(pattern, "", name, count=1)
    return name


def misfits(model: nn.Module, info: Mapping[str, Any], *, ignored: Sequence[str], headless: bool) -> list[str]:
    """What the files lack, have too much, or have in another shape; nothing where they are the model's own.

    A model that is read without its head (`headless`) may leave heads in the files and its pooler random: neither
    takes part in what is recorded.
    """
    missing = [key for key in sorted(info["missing_keys"]) if not (headless and key.split(".")[0] == "pooler")]
    surplus = [
        key
        for key in sorted(info["unexpected_keys"])
        if not any(fnmatchcase(key, pattern) for pattern in ignored) and not (headless and _is_head(model, key))
    ]
    shapes = [
        f"{key} ({list(in_file)} in the files, {list(in_model)} in the model)"
        for key, in_file, in_model in sorted(info["mismatched_keys"])
    ]
    problems = [f"they lack {listed(missing)}"] if missing else []
    problems += [f"they have {listed(surplus)}, which the model has not"] if surplus else []
    problems += [f"of another shape are {listed(shapes)}"] if shapes else []
    return problems


def listed(names: Sequence[str]) -> str:
    """The first few of many, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _is_head(model: Any, key: str) -> bool:
    """Whether a weight of the files lies outside of all parts of the model."""
    top = key.removeprefix(f"{model.base_model_prefix}.").split(".")[0]
    return top not in {name for name, _ in model.named_children()}
