"""Loading models of the transformers library: whole, as their files say, and without running anybody's code.

The library warns where we refuse: it fills weights that a file lacks with random numbers and passes over those that
it does not know. It also asks on the terminal whether it may run a repository's code; here it never may. Whatever it
raises leaves this module as one `ConfigError`.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import torch
from attrs import field, frozen
from attrs.validators import and_, deep_iterable, in_, instance_of, min_len
from torch import nn

from crosscoders import ConfigError
from crosscoders.converters import as_tuple

from .classes import ModelClass
from .foreign import Place, foreign_errors, library, locate, silence
from .lens_names import canonical_point
from .lora import adapted, check_base
from .placement import QUANTISATIONS, check_combination, check_device_map, has_offloaded, placed
from .tokenising import parse_date
from .twins import shared
from .weights import WRAPPERS, misfits, unwrapped


@frozen(kw_only=True)
class TransformersConfig:
    """A model of the transformers library."""

    canonical_point: ClassVar[Callable[[str], str] | None] = staticmethod(canonical_point)
    """From names of TransformerLens to ours."""
    changes_model: ClassVar[bool] = False
    """Whether the adapter changes modules or weights where they are, which then cannot be another's."""
    model: str = field(validator=and_(instance_of(str), min_len(1)))
    """Hub id, local folder, or `tiny-pair/base` and `tiny-pair/chat` for the shipped pair."""
    revision: str = "main"
    """Branch, tag or commit on the Hub."""
    subfolder: str = ""
    """Folder within the repository or local folder."""
    gguf_file: str = ""
    """A GGUF file of the repository or folder, which holds config, weights and tokenizer; its weights are read as
    `dtype`."""
    tokenizer: str = ""
    """Hub id or local folder of the tokenizer, for models that are stored without one; empty: the model's own."""
    dtype: str = field(default="float32", validator=in_(("float32", "bfloat16", "float16")))
    """Type of the weights in memory; activations are returned in fp32."""
    attention: str = field(default="auto", validator=in_(("auto", "eager", "sdpa", "flash_attention_2")))
    """Implementation of attention; `auto` leaves the choice to transformers."""
    quantisation: str = field(default="", validator=in_(QUANTISATIONS))
    """Weights of linear layers in 4 bits (`nf4`) or 8 (`int8`), by bitsandbytes; empty: as `dtype` says."""
    device_map: Any = field(default="", validator=check_device_map)
    """Where the parts of a model larger than one device go: `auto`, or a table such as
    `{ "model.layers.0" = "cuda:0", "lm_head" = "disk" }`; empty: all of it where the run wants it."""
    lora: str = ""
    """Hub id or local folder of an adapter (LoRA and its relatives, by peft) of the model; empty: none."""
    lora_revision: str = "main"
    """Branch, tag or commit of the adapter on the Hub."""
    lora_base: str = ""
    """What the adapter calls its base, where that is `model` under another name; empty: it has to be `model`."""
    merge: bool = False
    """Add the adapter to the weights: faster, but rounded to their type, and not shared with the base model's."""
    template_date: str = field(default="2024-07-26", validator=lambda _, __, date: parse_date(date) and None)
    """The day that chat templates are told when they ask for today's, ISO 8601: the same tokens on every day."""
    template_variables: Mapping[str, Any] = field(factory=dict)
    """Further variables for the chat template, such as `{ date_string = "26 Jul 2024", enable_thinking = false }`."""
    ignore_weights: tuple[str, ...] = field(
        default=(), converter=as_tuple, validator=deep_iterable(instance_of(str), instance_of(tuple))
    )
    """Weights in the files that the model does not have and that may be passed over, as patterns: `v_head.*`. Any
    other such weight is an error."""

    def __attrs_post_init__(self) -> None:
        check_combination(self)


@frozen(eq=False)
class Loaded:
    """A model in memory with its tokenizer."""

    model: nn.Module
    tokenizer: Any
    causal: bool
    """Whether it gives next-token logits."""
    notes: tuple[str, ...] = ()
    """What was done to make the files fit."""


def load(options: TransformersConfig) -> Loaded:
    """The model and the tokenizer that `options` name, on the CPU."""
    transformers = library()
    place = place_of(options)
    _refuse_adapter(options.model, place)
    with silence():
        with foreign_errors(f"the model '{options.model}'", place):
            place = place.here()
            config = transformers.AutoConfig.from_pretrained(place.source, **place.keywords)
        kind = ModelClass.of(config)

        def weights() -> tuple[nn.Module, tuple[str, ...]]:
            return _load_weights(options, place, config, kind)

        alone = options.merge or options.changes_model
        if options.lora:
            adapter = locate(options.lora, revision=options.lora_revision)
            check_base(options, place, adapter)
            # What is merged changes the weights, which then are nobody else's.
            model, notes = weights() if alone else shared(_identity(options, place), weights, whole=False)
            if has_offloaded(model):
                raise ConfigError(
                    f"the model '{options.model}' does not fit into memory, and an adapter (`lora`) cannot be put on "
                    "disk; merge it into a folder of its own and name that by `model`"
                )
            model = adapted(model, options.lora, adapter, merge=options.merge)
        else:
            model, notes = weights() if alone else shared(_identity(options, place), weights, whole=True)
        return Loaded(model, _load_tokenizer(options, place), kind.causal, notes)


def place_of(options: TransformersConfig) -> Place:
    """Where the model's files are."""
    if options.gguf_file:
        try:
            import gguf  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                "the option `gguf_file` needs the extra crosscoders[gguf]: pip install 'crosscoders[gguf]'"
            ) from error
    return locate(options.model, revision=options.revision, subfolder=options.subfolder, gguf_file=options.gguf_file)


def _identity(options: TransformersConfig, place: Place) -> str:
    """Equal for options that load the same weights in the same form."""
    form = (options.dtype, options.attention, options.quantisation, options.device_map, options.ignore_weights)
    return repr((place, form))


def _refuse_adapter(model: str, place: Place) -> None:
    """With peft installed the library would load adapters unasked, and another base model where they name one."""
    adapter = place.json("adapter_config.json")
    if adapter is None:
        return
    if place.json("config.json") is not None:
        raise ConfigError(
            f"'{model}' holds both a whole model and an adapter (adapter_config.json), so it is not clear which is "
            "meant; move one of them to a folder of its own"
        )
    raise ConfigError(
        f"'{model}' is an adapter ({adapter.get('peft_type', 'LORA')}) of the model "
        f"'{adapter.get('base_model_name_or_path')}', not a whole model: name its base by `model` and the adapter by "
        "`lora`, or merge them (peft's merge_and_unload, then save_pretrained) and name the merged folder"
    )


def _load_weights(
    options: TransformersConfig, place: Place, config: Any, kind: ModelClass
) -> tuple[nn.Module, tuple[str, ...]]:
    def attempt(**more: Any) -> tuple[Any, dict[str, Any]]:
        with foreign_errors(f"the model '{options.model}'", place), ExitStack() as offloaded:
            model, info = kind.auto.from_pretrained(
                place.source,
                config=config,
                dtype=getattr(torch, options.dtype),
                # Said even where the library chooses: a repository's config could name a kernel to be fetched and run.
                attn_implementation=None if options.attention == "auto" else options.attention,
                ignore_mismatched_sizes=True,  # so that they are reported; they are refused below
                output_loading_info=True,
                **place.keywords,
                **placed(options, config, offloaded),
                **more,
            )
            # What is on disk is there for as long as what is used of the model.
            weakref.finalize(kind.part(model), offloaded.pop_all().close)
        return model, info

    model, info = attempt()
    notes: tuple[str, ...] = ()
    wrapper = unwrapped(model, info)
    if wrapper:
        model, info = attempt(key_mapping=dict.fromkeys(WRAPPERS, ""))
        notes = (f"the names of its weights have '{wrapper}' in them, which was left off",)
        warnings.warn(f"the model '{options.model}': {notes[0]}", stacklevel=2)
    problems = misfits(model, info, ignored=options.ignore_weights, headless=not kind.causal)
    if problems:
        raise ConfigError(
            f"the files of the model '{options.model}' do not fit a {type(model).__name__}, so that part of it would "
            f"be random: {'; '.join(problems)}"
        )
    return kind.part(model), notes


def _load_tokenizer(options: TransformersConfig, model_place: Place) -> Any:
    place = locate(options.tokenizer) if options.tokenizer else model_place
    named = options.tokenizer or options.model
    none = ConfigError(
        f"'{named}' has no tokenizer; name one, usually the base model's, by the option `tokenizer` (a Hub id or a "
        "folder)"
    )
    if (
        place.is_folder
        and not place.gguf_file
        and not any(
            path.name.startswith(("tokenizer", "vocab")) or path.suffix in (".model", ".tiktoken")
            for path in Path(place.source, place.subfolder).iterdir()
        )
    ):
        raise none
    with foreign_errors(f"the tokenizer of '{named}' (the option `tokenizer` names another)", place):
        tokenizer = library().AutoTokenizer.from_pretrained(place.source, **place.keywords)
    # Where files are missing, some families make a tokenizer of special tokens alone.
    if len(tokenizer.get_vocab()) <= len(tokenizer.all_special_tokens):
        raise none
    return tokenizer
