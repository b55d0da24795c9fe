"""A base model with an adapter (LoRA and its relatives) by the peft library."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from torch import nn

from crosscoders import ConfigError

from .foreign import HUB_ID, Place, foreign_errors, without
from .weights import listed

if TYPE_CHECKING:
    from .loading import TransformersConfig


def check_base(options: TransformersConfig, base: Place, adapter: Place) -> None:
    """`ConfigError` where the adapter names another base than the model that it is put on.

    What an adapter adds means something on the weights that it was trained with alone, and fits all of their shape.
    """
    config = adapter.json("adapter_config.json") or {}
    named, revision = config.get("base_model_name_or_path"), config.get("revision") or "main"
    if isinstance(named, str) and named and not _is_base(named, str(revision), options, base):
        at = "" if revision == "main" else f" at revision '{revision}'"
        raise ConfigError(
            f"the adapter '{options.lora}' was made for the model '{named}'{at}, not for "
            f"'{options.lora_base or options.model}': name that as `model`, or, if it is the same model under another "
            f"name, say lora_base = '{named}'"
        )


def _is_base(named: str, revision: str, options: TransformersConfig, base: Place) -> bool:
    if options.lora_base:
        return named == options.lora_base
    if base.is_folder and Path(named).is_dir():
        return Path(named).resolve() == Path(base.source, base.subfolder).resolve()
    if not base.is_folder and HUB_ID.fullmatch(named):
        return named.casefold() == options.model.casefold() and revision in ("main", options.revision)
    # Of a folder of another machine, or of the Hub's copy in a folder, only the last part of the name can be compared.
    ours = PurePath(base.source, base.subfolder)
    return PurePath(named.replace("\\", "/")).name.casefold() == ours.name.casefold()


def adapted(model: nn.Module, named: str, place: Place, *, merge: bool) -> nn.Module:
    """The model with the adapter at `place` in its layers, or, with `merge`, added to its weights."""
    try:
        with without("kernels"):  # it imports bitsandbytes, where that is installed
            import peft
        from peft.utils import load_peft_weights
    except ImportError as error:
        raise ConfigError(
            "the option `lora` needs the extra crosscoders[lora]: pip install 'crosscoders[lora]'"
        ) from error
    config = place.json("adapter_config.json")
    if config is None:
        raise ConfigError(f"'{named}' is not an adapter: it has no adapter_config.json that can be read")
    if config.get("megatron_config"):
        raise ConfigError(f"the adapter '{named}' names a Python module to import, which is never done")
    where: dict[str, Any] = {} if place.is_folder else {"revision": place.revision}
    if place.subfolder:
        where["subfolder"] = place.subfolder
    with foreign_errors(f"the adapter '{named}'"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # between peft and transformers
        wrapped = peft.PeftModel.from_pretrained(model, place.source, is_trainable=False, **where)
        if wrapped.active_peft_config.is_prompt_learning:
            raise ConfigError(f"'{named}' changes prompts ({config.get('peft_type')}), not the layers of a model")
        given = set(load_peft_weights(place.source, device="cpu", **where))
        expected = set(peft.get_peft_model_state_dict(wrapped))
    # peft passes over both without an error, and what is missing stays as it was drawn.
    problems = [f"its files lack {listed(sorted(expected - given))}"] if expected - given else []
    problems += [f"they have {listed(sorted(given - expected))}, which has no place"] if given - expected else []
    if problems:
        raise ConfigError(f"the adapter '{named}' does not fit its base: {'; '.join(problems)}")
    with foreign_errors(f"the adapter '{named}'"):
        found: nn.Module = wrapped.merge_and_unload() if merge else wrapped.get_base_model()
    return found


@contextmanager
def scaled(model: nn.Module, factor: float, name: str) -> Iterator[None]:
    """Within, what the adapter adds to each layer's weights counts `factor` times."""
    # peft keeps the scale of each adapter in the layers that it wraps, beside the two factors of the product.
    scales: list[dict[str, float]] = [
        vars(layer)["scaling"]
        for layer in model.modules()
        if hasattr(layer, "lora_A") and isinstance(vars(layer).get("scaling"), dict)
    ]
    if not scales:
        raise ConfigError(f"'{name}' has no adapter in its layers to scale: load it by `lora`, not merged")
    before = [dict(scale) for scale in scales]
    try:
        for scale in scales:
            scale.update({key: value * factor for key, value in scale.items()})
        yield
    finally:
        for scale, old in zip(scales, before, strict=True):
            scale.update(old)
