"""Where in a model of transformers its layers, its last norm and its head are, whatever its family calls them."""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from crosscoders import ConfigError

LAST_NORM_NAMES = ("norm", "final_layernorm", "final_layer_norm", "ln_f", "norm_f")


def is_causal(model: nn.Module) -> bool:
    """Whether a model has a head for the next token: by its class or, where that is somebody's own, by the head."""
    from transformers.models.auto import modeling_auto as auto

    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return False
    names = {cls.__name__ for cls in type(model).__mro__}
    if names & set(auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()):
        return True
    # The head of some masked models has the same name.
    return hasattr(model, "lm_head") and not names & set(auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES.values())


def text_config(config: Any) -> Any:
    """The part of a config that is about text."""
    return getattr(config, "text_config", config)


def text_part(model: Any) -> nn.Module:
    """The part of a model of text and images that reads text; any other model as a whole."""
    if text_config(model.config) is model.config:
        return cast("nn.Module", model)
    try:
        found = model.get_decoder()
    except (AttributeError, NotImplementedError):
        found = None
    return found if isinstance(found, nn.Module) else cast("nn.Module", model)


def layer_list(model: nn.Module) -> nn.ModuleList:
    """The list of layers: the shallowest module list as long as the config says there are layers."""
    expected = int(text_config(model.config).num_hidden_layers)
    lists = [
        (name, m) for name, m in text_part(model).named_modules() if isinstance(m, nn.ModuleList) and len(m) == expected
    ]
    if not lists:
        raise ConfigError(f"found no list of {expected} layers in {type(model).__name__}")
    return min(lists, key=lambda pair: pair[0].count("."))[1]


def last_norm(model: nn.Module, layers: nn.ModuleList) -> nn.Module | None:
    """The norm after the last layer: a sibling of the layer list under one of the usual names."""
    owner = next(m for m in model.modules() if any(child is layers for child in m.children()))
    found = [getattr(owner, name, None) for name in LAST_NORM_NAMES]
    return next((norm for norm in found if isinstance(norm, nn.Module)), None)
