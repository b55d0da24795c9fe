"""How a model is held: its weights quantised, or its parts on several devices and on disk."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from crosscoders import ConfigError

from .foreign import without

if TYPE_CHECKING:
    from .loading import TransformersConfig

AUTOMATIC = ("auto", "balanced", "balanced_low_0", "sequential")
"""Device maps that accelerate makes."""
QUANTISATIONS = ("", "nf4", "int8")
DISK = "disk"


def check_device_map(_: Any, __: Any, device_map: Any) -> None:
    """A validator: empty, a word of accelerate's, or a table from parts of the model to devices."""
    if isinstance(device_map, Mapping):
        places = list(device_map.values())
        if places and all(isinstance(place, str | int) and not isinstance(place, bool) for place in places):
            return
    elif isinstance(device_map, str) and device_map in ("", *AUTOMATIC):
        return
    raise ConfigError(
        f"device_map should be {', '.join(AUTOMATIC)}, or a table from parts of the model to devices, such as "
        f'{{ "model.embed_tokens" = "cuda:0", "lm_head" = "cpu" }}, not {device_map!r}'
    )


def check_combination(options: TransformersConfig) -> None:
    """`ConfigError` names options that exclude each other."""
    quantised = f"quantisation = '{options.quantisation}'" if options.quantisation else ""
    on_disk = f"parts of the device_map on '{DISK}'" if DISK in _places(options.device_map) else ""
    problems = [
        (options.merge and not options.lora, "merge = true needs an adapter to merge: name one by `lora`"),
        (
            quantised and options.gguf_file,
            f"{quantised} and `gguf_file` exclude each other: the weights of a GGUF file are quantised already, and "
            "are read as `dtype`",
        ),
        (
            quantised and options.merge,
            f"{quantised} and merge = true exclude each other: the sum would be rounded to few values once more; "
            "leave the adapter in its layers",
        ),
        (quantised and on_disk, f"{quantised} and {on_disk} exclude each other: quantised weights stay in memory"),
        (
            options.lora and on_disk,
            f"`lora` and {on_disk} exclude each other; merge the adapter into a folder of its own and name that by "
            "`model`",
        ),
        (
            options.gguf_file and on_disk,
            f"`gguf_file` and {on_disk} exclude each other: no weight there is ready to use",
        ),
    ]
    for is_so, problem in problems:
        if is_so:
            raise ConfigError(problem)


def placed(options: TransformersConfig, config: Any, offloaded: ExitStack) -> dict[str, Any]:
    """What the library's `from_pretrained` is told of this; `ConfigError` where it cannot be had here.

    A folder for weights on disk, where there may be such, is there until `offloaded` is closed.
    """
    keywords: dict[str, Any] = {}
    if options.device_map:
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        if processes > 1 and isinstance(options.device_map, str):
            raise ConfigError(
                f"device_map = '{options.device_map}' gives a model all devices, and there are {processes} processes "
                "that would each take them; start one process, or give a table of devices"
            )
        by_hand = isinstance(options.device_map, Mapping)
        keywords["device_map"] = dict(options.device_map) if by_hand else options.device_map
        # For weights that cannot be read from the model's own files as they are needed.
        keywords["offload_folder"] = offloaded.enter_context(tempfile.TemporaryDirectory(prefix="crosscoders-"))
    if options.quantisation:
        already = getattr(config, "quantization_config", None)
        if already is not None:
            method = dict(already).get("quant_method", "a method that it does not name")
            raise ConfigError(
                f"quantisation = '{options.quantisation}': the model '{options.model}' is quantised already, by "
                f"{method}; leave the option out"
            )
        keywords["quantization_config"] = _quantisation(options)
    return keywords


def _quantisation(options: TransformersConfig) -> Any:
    from transformers import BitsAndBytesConfig

    try:
        with without("kernels"):
            import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"quantisation = '{options.quantisation}' needs the extra crosscoders[quantisation]: pip install "
            "'crosscoders[quantisation]'"
        ) from error
    # It would say at every product of matrices that it rounds.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if options.quantisation == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=getattr(torch, options.dtype)
    )


def is_spread(model: nn.Module) -> bool:
    """Whether a model's parts are on several devices or on disk, so that it cannot be moved as one."""
    return len({parameter.device for parameter in model.parameters()}) > 1 or has_offloaded(model)


def has_offloaded(model: nn.Module) -> bool:
    """Whether some weights are in memory only while they are used."""
    return any(parameter.is_meta for parameter in model.parameters())


def input_device(model: Any) -> torch.device:
    """Where a model takes its tokens: weights that are offloaded are nowhere until then."""
    device: torch.device = model.device
    if device.type != "meta":
        return device
    return torch.device(getattr(getattr(model, "_hf_hook", None), "execution_device", None) or "cpu")


@contextmanager
def present(*modules: nn.Module) -> Iterator[None]:
    """Within, the weights of modules are there even if they are offloaded."""
    from accelerate.utils import align_module_device

    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(align_module_device(module))
        yield


def _places(device_map: Any) -> set[str]:
    return {str(place) for place in device_map.values()} if isinstance(device_map, Mapping) else set()
