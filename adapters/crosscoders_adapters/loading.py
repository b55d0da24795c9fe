"""Loading models of the transformers library: whole, as their files say, and without running anybody's code.

The library warns where we refuse: it fills weights that a file lacks with random numbers and passes over those that
it does not know. It also asks on the terminal whether it may run a repository's code; here it never may. Whatever it
raises leaves this module as one `ConfigError`.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from attrs import field, frozen
from attrs.validators import and_, deep_iterable, in_, instance_of, min_len
from huggingface_hub import hf_hub_download
from torch import nn

from crosscoders import ConfigError, CrosscodersError
from crosscoders.converters import as_tuple

from .weights import WRAPPERS, misfits, unwrapped

TINY_PAIR = Path(__file__).parent / "tiny_pair"
"""The base/chat pair that this package ships: `tiny-pair/base` and `tiny-pair/chat`."""

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@frozen(kw_only=True)
class TransformersConfig:
    """A model of the transformers library."""

    model: str = field(validator=and_(instance_of(str), min_len(1)))
    """Hub id, local folder, or `tiny-pair/base` and `tiny-pair/chat` for the shipped pair."""
    revision: str = "main"
    """Branch, tag or commit on the Hub."""
    subfolder: str = ""
    """Folder within the repository or local folder."""
    tokenizer: str = ""
    """Hub id or local folder of the tokenizer, for models that are stored without one; empty: the model's own."""
    dtype: str = field(default="float32", validator=in_(("float32", "bfloat16", "float16")))
    """Type of the weights in memory; activations are returned in fp32."""
    attention: str = field(default="auto", validator=in_(("auto", "eager", "sdpa", "flash_attention_2")))
    """Implementation of attention; `auto` leaves the choice to transformers."""
    ignore_weights: tuple[str, ...] = field(
        default=(), converter=as_tuple, validator=deep_iterable(instance_of(str), instance_of(tuple))
    )
    """Weights in the files that the model does not have and that may be passed over, as patterns: `v_head.*`. Any
    other such weight is an error."""


@frozen(eq=False)
class Loaded:
    """A model in memory with its tokenizer."""

    model: nn.Module
    tokenizer: Any
    causal: bool
    """Whether it gives next-token logits."""
    notes: tuple[str, ...] = ()
    """What was done to make the files fit."""


@frozen
class Place:
    """Where the library looks for a model's files."""

    source: str
    """A folder of this machine or a Hub id."""
    is_folder: bool
    revision: str
    subfolder: str

    @property
    def keywords(self) -> dict[str, Any]:
        """What every `from_pretrained` is told."""
        where = {} if self.is_folder else {"revision": self.revision}
        return {**where, "subfolder": self.subfolder, "trust_remote_code": False}

    def json(self, name: str) -> dict[str, Any] | None:
        """A JSON file of the repository; None where it has none, or none that can be read."""
        with suppress(Exception):
            path = (
                Path(self.source, self.subfolder, name)
                if self.is_folder
                else Path(hf_hub_download(self.source, name, revision=self.revision, subfolder=self.subfolder or None))
            )
            found = json.loads(path.read_text(encoding="utf-8"))
            return found if isinstance(found, dict) else None
        return None


def locate(model: str, *, revision: str = "main", subfolder: str = "") -> Place:
    """A shipped model, a folder of this machine or a Hub id; `ConfigError` for what can be none of them."""
    if model.startswith("tiny-pair/"):
        folder = TINY_PAIR / model.removeprefix("tiny-pair/")
        if not (folder / "model.safetensors").is_file():
            raise ConfigError(f"the shipped pair has 'tiny-pair/base' and 'tiny-pair/chat', not '{model}'")
        return Place(str(folder), True, revision, "")
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / subfolder).is_dir():
            raise ConfigError(f"the folder '{model}' has no folder '{subfolder}'")
        return Place(str(folder), True, revision, subfolder)
    if folder.is_file():
        raise ConfigError(f"'{model}' is a file; name the folder that it is in")
    # The Hub must never be asked for what was meant as a folder: somebody could have taken that name there.
    if not HUB_ID.fullmatch(model):
        raise ConfigError(f"there is no folder '{model}' on this machine, and it cannot be a Hub id")
    return Place(model, False, revision, subfolder)


def load(options: TransformersConfig) -> Loaded:
    """The model and the tokenizer that `options` name, on the CPU."""
    transformers = library()
    place = locate(options.model, revision=options.revision, subfolder=options.subfolder)
    _refuse_adapter(options.model, place)
    with foreign_errors(f"the model '{options.model}'"):
        config = transformers.AutoConfig.from_pretrained(place.source, **place.keywords)
    causal = is_decoder_only(config)
    model, notes = _load_weights(options, place, config, causal)
    return Loaded(model, _load_tokenizer(options, place), causal, notes)


def library() -> Any:
    """The transformers library; `ConfigError` names the extra where it is not installed."""
    try:
        import transformers
    except ImportError as error:
        raise ConfigError("the model adapter 'transformers' needs the extra crosscoders[transformers]") from error
    return transformers


@contextmanager
def foreign_errors(what: str) -> Iterator[None]:
    """Turn whatever a foreign library raises while it loads `what` into one sentence of ours."""
    try:
        yield
    except CrosscodersError:
        raise
    # Files of strangers reach every corner of the library, so that a list of its exceptions would never be complete.
    except Exception as error:
        raise ConfigError(f"cannot load {what}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    text = " ".join("".join(c if c.isprintable() else " " for c in str(error)).split())
    text = text if len(text) <= 300 else text[:300] + " …"
    if "trust_remote_code" in str(error):
        return (
            "it needs Python code of its own repository, which is never run here; if you trust that code, load the "
            "model yourself in Python and pass it to TransformersAdapter.wrap"
        )
    if isinstance(error, ImportError):
        return f"it needs a library that is not installed: {text}"
    damaged = ("SafetensorError", "UnpicklingError", "EOFError", "BadZipFile")
    if type(error).__name__ in damaged or "PytorchStreamReader" in text:
        return f"a file of its weights is damaged or cut off ({text})"
    return text or type(error).__name__


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
        f"'{adapter.get('base_model_name_or_path')}', not a whole model: merge it into its base (peft's "
        "merge_and_unload, then save_pretrained) and name the merged folder, or pass the model to "
        "TransformersAdapter.wrap"
    )


def _load_weights(
    options: TransformersConfig, place: Place, config: Any, causal: bool
) -> tuple[nn.Module, tuple[str, ...]]:
    transformers = library()
    auto = transformers.AutoModelForCausalLM if causal else transformers.AutoModel

    def attempt(**more: Any) -> tuple[Any, dict[str, Any]]:
        with foreign_errors(f"the model '{options.model}'"):
            model, info = auto.from_pretrained(
                place.source,
                config=config,
                dtype=getattr(torch, options.dtype),
                # Said even where the library chooses: a repository's config could name a kernel to be fetched and run.
                attn_implementation=None if options.attention == "auto" else options.attention,
                ignore_mismatched_sizes=True,  # so that they are reported; they are refused below
                output_loading_info=True,
                **place.keywords,
                **more,
            )
        return model, info

    model, info = attempt()
    notes: tuple[str, ...] = ()
    wrapper = unwrapped(model, info)
    if wrapper:
        model, info = attempt(key_mapping=dict.fromkeys(WRAPPERS, ""))
        notes = (f"the names of its weights have '{wrapper}' in them, which was left off",)
        warnings.warn(f"the model '{options.model}': {notes[0]}", stacklevel=2)
    problems = misfits(model, info, ignored=options.ignore_weights, headless=not causal)
    if problems:
        raise ConfigError(
            f"the files of the model '{options.model}' do not fit a {type(model).__name__}, so that part of it would "
            f"be random: {'; '.join(problems)}"
        )
    return model, notes


def _load_tokenizer(options: TransformersConfig, model_place: Place) -> Any:
    place = locate(options.tokenizer) if options.tokenizer else model_place
    named = options.tokenizer or options.model
    none = ConfigError(
        f"'{named}' has no tokenizer; name one, usually the base model's, by the option `tokenizer` (a Hub id or a "
        "folder)"
    )
    if place.is_folder and not any(
        path.name.startswith(("tokenizer", "vocab")) or path.suffix in (".model", ".tiktoken")
        for path in Path(place.source, place.subfolder).iterdir()
    ):
        raise none
    with foreign_errors(f"the tokenizer of '{named}' (the option `tokenizer` names another)"):
        tokenizer = library().AutoTokenizer.from_pretrained(place.source, **place.keywords)
    # Where files are missing, some families make a tokenizer of special tokens alone.
    if len(tokenizer.get_vocab()) <= len(tokenizer.all_special_tokens):
        raise none
    return tokenizer


def is_decoder_only(config: Any) -> bool:
    """Whether the model is a decoder. The saved class name decides first, because encoders such as BERT are in the
    library's table of causal models too."""
    transformers = library()
    names = " ".join(config.architectures or [])
    if "CausalLM" in names or "LMHead" in names:
        return True
    masked = type(config) in transformers.MODEL_FOR_MASKED_LM_MAPPING
    return type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING and not masked
