"""Hugging Face transformers models of any family: activations are captured by hooks on the list of layers.

Points, for layer i of n:

* `layers.{i}.input`: the residual stream before the layer (`layers.0.input` is the embedding)
* `layers.{i}.attention`: what attention adds to the residual stream
* `layers.{i}.mlp_input`: what the MLP reads (after the norm before it, if the layer has one)
* `layers.{i}.mlp`: what the MLP adds to the residual stream
* `layers.{i}`: the residual stream after the layer (before any final norm)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from attrs import field, frozen
from attrs.validators import and_, in_, instance_of, min_len
from huggingface_hub import try_to_load_from_cache
from torch import Tensor, nn

from crosscoders import ConfigError, Document, Edit, SiteError, TokenBatch, Tokenized

from .packing import Apart
from .tokenising import Tokenising, parse_date

TINY_PAIR = Path(__file__).parent / "tiny_pair"
"""The base/chat pair that this package ships: `tiny-pair/base` and `tiny-pair/chat`."""

ATTENTION_NAMES = ("attention.output.dense", "self_attn", "attn", "self_attention", "attention")
MLP_NAMES = ("mlp", "feed_forward", "ffn", "output.dense")
MLP_INPUT_NAMES = ("mlp", "feed_forward", "ffn", "intermediate.dense")


@frozen(kw_only=True)
class TransformersConfig:
    """A model of the transformers library."""

    model: str = field(validator=and_(instance_of(str), min_len(1)))
    """Hub id, local folder, or `tiny-pair/base` and `tiny-pair/chat` for the shipped pair."""
    revision: str = "main"
    """Branch, tag or commit on the Hub."""
    dtype: str = field(default="float32", validator=in_(("float32", "bfloat16", "float16")))
    """Type of the weights in memory; activations are returned in fp32."""
    attention: str = field(default="auto", validator=in_(("auto", "eager", "sdpa", "flash_attention_2")))
    """Implementation of attention; `auto` leaves the choice to transformers."""
    template_date: str = field(default="2024-07-26", validator=lambda _, __, date: parse_date(date) and None)
    """The day that chat templates are told when they ask for today's, ISO 8601: the same tokens on every day."""
    template_variables: Mapping[str, Any] = field(factory=dict)
    """Further variables for the chat template, such as `{ date_string = "26 Jul 2024", enable_thinking = false }`."""


class TransformersAdapter:
    """Model adapter `transformers`."""

    def __init__(self, options: TransformersConfig) -> None:
        try:
            import transformers
        except ImportError as error:
            raise ConfigError("the model adapter 'transformers' needs the extra crosscoders[transformers]") from error

        self.options = options
        location, offline = _locate(options.model)
        keywords: dict[str, Any] = {} if offline else {"revision": options.revision}
        attention = {} if options.attention == "auto" else {"attn_implementation": options.attention}
        try:
            config = transformers.AutoConfig.from_pretrained(location, **keywords)
            causal = _is_decoder_only(config)
            auto = transformers.AutoModelForCausalLM if causal else transformers.AutoModel
            model = auto.from_pretrained(location, dtype=getattr(torch, options.dtype), **attention, **keywords)
            tokenizer = transformers.AutoTokenizer.from_pretrained(location, **keywords)
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(f"cannot load the model '{options.model}': {error}") from error
        self._attach(model, tokenizer, causal)

    @classmethod
    def wrap(cls, model: nn.Module, tokenizer: Any, *, name: str = "in-memory") -> TransformersAdapter:
        """Make an adapter for a model that is already in memory: fine-tuned, merged, or built from a config."""
        adapter = cls.__new__(cls)
        adapter.options = TransformersConfig(model=name)
        adapter._attach(model, tokenizer, causal=hasattr(model, "lm_head") or hasattr(model, "embed_out"))
        return adapter

    def _attach(self, model: Any, tokenizer: Any, causal: bool) -> None:
        self.model, self.tokenizer, self.causal = model.eval().requires_grad_(False), tokenizer, causal
        self.layers = _layer_list(model)
        self._width = int(_text_config(model.config).hidden_size)
        self._forward_names = set(inspect.signature(model.forward).parameters)
        self.tokenising = Tokenising(
            tokenizer,
            self.options.model,
            date=self.options.template_date,
            variables=self.options.template_variables,
        )
        self.apart = Apart(
            model, self._forward_names, causal=causal, forward=self._last_activations, name=self.options.model
        )

    # -- identity -----------------------------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """Hub id or path, the revision asked for and, if the files came from the Hub, the commit they came from."""
        return {
            "adapter": "transformers",
            "model": self.options.model,
            "revision": _commit(self.options) or self.options.revision,
            "class": type(self.model).__name__,
            "dtype": self.options.dtype,
        }

    def vocabulary(self) -> str:
        tokens = sorted(self.tokenizer.get_vocab().items())
        return sha256(repr(tokens).encode()).hexdigest()[:16]

    def has_chat_template(self) -> bool:
        return self.tokenising.has_chat_template

    def to(self, device: torch.device) -> TransformersAdapter:
        self.model.to(device)
        return self

    # -- tokens -------------------------------------------------------------------------------------------------

    def tokenize(self, document: Document) -> Tokenized:
        return self.tokenising.tokenize(document)

    def prompt(self, question: str) -> list[int]:
        """Token ids of a user's question, laid out so that the model answers next."""
        return self.tokenising.prompt(question)

    def end_tokens(self) -> frozenset[int]:
        """The token ids that end an answer."""
        ends = getattr(self.model.config, "eos_token_id", None)
        ends = ends if isinstance(ends, list) else [ends, self.tokenizer.eos_token_id]
        return frozenset(end for end in ends if end is not None)

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        return self.tokenising.token_texts(ids)

    def text(self, ids: Sequence[int]) -> str:
        """The text of a sequence, without special tokens."""
        return self.tokenising.text(ids)

    # -- points -------------------------------------------------------------------------------------------------

    def points(self) -> Sequence[str]:
        per_layer = [".input", *([".attention"] if self._module(0, ATTENTION_NAMES) else [])]
        per_layer += [".mlp_input"] if self._module(0, MLP_INPUT_NAMES) else []
        per_layer += [*([".mlp"] if self._module(0, MLP_NAMES) else []), ""]
        return [f"layers.{number}{part}" for number in range(len(self.layers)) for part in per_layer]

    def width(self, point: str) -> int:
        self._parse(point)
        return self._width

    def _parse(self, point: str) -> tuple[int, str]:
        if point not in self.points():
            raise SiteError(
                f"model '{self.options.model}' has no point '{point}'; it has layers.0 to "
                f"layers.{len(self.layers) - 1}, each alone or with .input, .attention, .mlp_input or .mlp"
            )
        _, number, *part = point.split(".")
        return int(number), part[0] if part else ""

    def _module(self, layer: int, names: Sequence[str]) -> nn.Module | None:
        block = self.layers[layer]
        # Families that normalise a sub-block's output (Gemma 2 and 3, OLMo 2) add the norm's output, not the block's.
        post_norm = {ATTENTION_NAMES: "post_attention_layernorm", MLP_NAMES: "post_feedforward_layernorm"}
        if hasattr(block, "post_feedforward_layernorm") and tuple(names) in post_norm:
            return getattr(block, post_norm[tuple(names)], None)
        for name in names:
            module: Any = block
            for step in name.split("."):
                module = getattr(module, step, None)
            if isinstance(module, nn.Module):
                return module
        return None

    @contextmanager
    def _hooked(self, point: str, change: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
        """Call `change` with the activations at `point`; what it returns, if anything, replaces them."""
        number, part = self._parse(point)
        if part in ("input", "mlp_input"):
            reader = self.layers[number] if part == "input" else self._module(number, MLP_INPUT_NAMES)
            assert reader is not None
            handle = reader.register_forward_pre_hook(
                lambda _, args, kwargs: _replace_input(args, kwargs, change), with_kwargs=True, prepend=True
            )
        else:
            names = {"attention": ATTENTION_NAMES, "mlp": MLP_NAMES}.get(part)
            module = self._module(number, names) if names else self.layers[number]
            assert module is not None
            # Prepend the hook, so that the library's own capture hooks see the replacement too.
            handle = module.register_forward_hook(
                lambda _module, _args, out: _replace_output(out, change), prepend=True
            )
        try:
            yield
        finally:
            handle.remove()

    # -- running ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def activations(self, tokens: TokenBatch, points: Sequence[str]) -> dict[str, Tensor]:
        wanted, found = set(points), dict[str, Tensor]()
        order = [point for point in self.points() if point in wanted]
        for point in points:
            self._parse(point)

        def record(point: str) -> Callable[[Tensor], None]:
            def keep(activation: Tensor) -> None:
                found[point] = activation.detach()
                if len(found) == len(wanted):
                    raise _AllFoundError

            return keep

        keywords = self._keywords(tokens)
        # The last hook raises it: the rest of the forward pass is not needed.
        with (
            suppress(_AllFoundError),
            _all_of(self._hooked(point, self.apart.rows(tokens, record(point))) for point in order),
        ):
            self.model(**keywords)
        return found

    @torch.no_grad()
    def logits(self, tokens: TokenBatch, edits: Sequence[Edit] = ()) -> Tensor:
        if not self.causal:
            raise ConfigError(f"model '{self.options.model}' is an encoder and gives no next-token logits")
        keywords = self._keywords(tokens)
        with _all_of(self._hooked(edit.point, self.apart.rows(tokens, edit.apply)) for edit in edits):
            logits: Tensor = self.model(**keywords).logits
        return logits.reshape(*tokens.ids.shape, -1).float()

    def decoder(self) -> TransformersDecoder:
        if not self.causal:
            raise ConfigError(f"model '{self.options.model}' is an encoder and gives no next-token logits")
        return TransformersDecoder(self)

    def _keywords(self, tokens: TokenBatch) -> dict[str, Any]:
        """What the model's forward pass takes. Made before any hook is set, since it may run the model to find out."""
        keywords: dict[str, Any] = {"use_cache": False} if "use_cache" in self._forward_names else {}
        tokens = tokens.to(self.model.device)
        if tokens.is_packed:
            keywords |= self.apart.keywords(tokens)
        else:
            keywords |= {"input_ids": tokens.ids, "attention_mask": tokens.attention.long()}
            keywords |= self._positions(tokens.attention)
        return keywords

    def _last_activations(self, tokens: TokenBatch) -> Tensor:
        """After the last layer, (B, T, D), which shows whatever was seen before it."""
        point = f"layers.{len(self.layers) - 1}"
        return self.activations(tokens, [point])[point]

    def _positions(self, attention_BT: Tensor) -> dict[str, Tensor]:
        if "position_ids" not in self._forward_names or not self.causal:
            return {}
        return {"position_ids": (attention_BT.long().cumsum(dim=1) - 1).clamp_min(0)}


class TransformersDecoder:
    """Reads growing contexts with the model's key-value cache."""

    def __init__(self, adapter: TransformersAdapter) -> None:
        from transformers import DynamicCache

        self.adapter = adapter
        self.cache = DynamicCache(config=adapter.model.config)
        self._attention: Tensor | None = None

    @torch.no_grad()
    def advance(self, ids: Tensor, attention: Tensor) -> Tensor:
        """Read tokens (B, T), left-padded where `attention` is False; returns the next token's logits, (B, V) in
        fp32."""
        device = self.adapter.model.device
        seen = (
            attention.to(device) if self._attention is None else torch.cat([self._attention, attention.to(device)], 1)
        )
        self._attention = seen
        positions = {k: v[:, -ids.shape[1] :] for k, v in self.adapter._positions(seen).items()}
        out = self.adapter.model(
            input_ids=ids.to(device),
            attention_mask=seen.long(),
            past_key_values=self.cache,
            use_cache=True,
            **positions,
        )
        logits: Tensor = out.logits[:, -1].float()
        return logits


class _AllFoundError(Exception):
    """Raised to end a forward pass early."""


@contextmanager
def _all_of(managers: Iterator[Any]) -> Iterator[None]:
    with ExitStack() as stack:
        for manager in managers:
            stack.enter_context(manager)
        yield


def _replace_input(args: Any, kwargs: Any, change: Callable[[Tensor], Tensor | None]) -> Any:
    if args:
        new = change(args[0])
        return None if new is None else ((new, *args[1:]), kwargs)
    new = change(kwargs["hidden_states"])
    return None if new is None else (args, {**kwargs, "hidden_states": new})


def _replace_output(out: Any, change: Callable[[Tensor], Tensor | None]) -> Any:
    # Layers return a tensor or a tuple that begins with one, depending on the family.
    new = change(out[0] if isinstance(out, tuple) else out)
    if new is None:
        return None
    return (new, *out[1:]) if isinstance(out, tuple) else new


def _locate(model: str) -> tuple[str, bool]:
    """Where `from_pretrained` should look, and whether that is a folder."""
    if model.startswith("tiny-pair/"):
        folder = TINY_PAIR / model.removeprefix("tiny-pair/")
        if not (folder / "model.safetensors").is_file():
            raise ConfigError(f"the shipped pair has 'tiny-pair/base' and 'tiny-pair/chat', not '{model}'")
        return str(folder), True
    return model, Path(model).is_dir()


def _commit(options: TransformersConfig) -> str | None:
    """The commit that the Hub client's cache has for the revision; None for folders and models in memory."""
    if _is_local(options.model):
        return None
    cached = try_to_load_from_cache(options.model, "config.json", revision=options.revision)
    return Path(cached).parent.name if isinstance(cached, str) else None


def _is_local(model: str) -> bool:
    return model.startswith("tiny-pair/") or Path(model).is_dir()


def _text_config(config: Any) -> Any:
    return getattr(config, "text_config", config)


def _is_decoder_only(config: Any) -> bool:
    """Whether the model is a decoder. The saved class name decides first, because encoders such as BERT are in the
    library's table of causal models too."""
    import transformers

    names = " ".join(config.architectures or [])
    if "CausalLM" in names or "LMHead" in names:
        return True
    masked = type(config) in transformers.AutoModelForMaskedLM._model_mapping
    return type(config) in transformers.AutoModelForCausalLM._model_mapping and not masked


def _layer_list(model: nn.Module) -> nn.ModuleList:
    """The list of layers: the shallowest module list as long as the config says there are layers."""
    expected = int(_text_config(model.config).num_hidden_layers)
    lists = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == expected]
    if not lists:
        raise ConfigError(f"found no list of {expected} layers in {type(model).__name__}")
    return min(lists, key=lambda pair: pair[0].count("."))[1]
