"""Hugging Face transformers models of any family: activations are captured by hooks on the list of layers.

Points, for layer i of n:

* `layers.{i}.input`: the residual stream before the layer (`layers.0.input` is the embedding)
* `layers.{i}.attention`: what attention adds to the residual stream
* `layers.{i}.mlp_input`: what the MLP reads (after the norm before it, if the layer has one)
* `layers.{i}.mlp`: what the MLP adds to the residual stream
* `layers.{i}`: the residual stream after the layer (before any final norm)
* `final`: what the output embedding reads, after the final norm (models with logits only)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from torch import Tensor, nn

from crosscoders import ConfigError, Document, Edit, SiteError, TokenBatch, Tokenized

from .anatomy import is_causal, last_norm, layer_list, text_config
from .context import longest_context
from .foreign import foreign_errors
from .linear import FINAL, Linearises
from .loading import Loaded, TransformersConfig, load, place_of
from .lora import scaled
from .packing import Apart, positions_within
from .parts import LayerParts, Part, find_parts, residual_of
from .placement import input_device, is_spread
from .read_out import direct_effect
from .tokenising import Tokenising

__all__ = ["TransformersAdapter", "TransformersConfig", "TransformersDecoder"]

OFFERED = ("input", "attention", "mlp_input", "mlp", "")
"""Parts of a layer in the order in which the forward pass reaches them."""
HELD = ("subfolder", "gguf_file", "quantisation", "lora", "merge")
"""Options that make another model of one name, and are part of its description where they are set."""


class TransformersAdapter(Linearises):
    """Model adapter `transformers`."""

    decoders_may_end_early = True
    """An edit of a decoder may raise to end the pass: layers below keep what they have read, none above is needed."""

    def __init__(self, options: TransformersConfig, loaded: Loaded | None = None) -> None:
        self.options = options
        loaded = loaded or load(options)
        self._attach(loaded.model, loaded.tokenizer, loaded.causal)
        self.notes = loaded.notes

    @classmethod
    def wrap(cls, model: nn.Module, tokenizer: Any, *, name: str = "in-memory") -> TransformersAdapter:
        """Make an adapter for a model that is already in memory: fine-tuned, merged, or built from a config.

        A model that PEFT has wrapped is run from the inside, where its LoRA weights are: the wrapper hides which
        arguments the model takes, and with them the positions of padded rows.
        """
        unwrapped: Any = getattr(model, "get_base_model", lambda: model)
        model = unwrapped()
        return cls(TransformersConfig(model=name), Loaded(model, tokenizer, is_causal(model)))

    def _attach(self, model: Any, tokenizer: Any, causal: bool) -> None:
        self.model, self.tokenizer, self.causal = model.eval().requires_grad_(False), tokenizer, causal
        self.layers = layer_list(model)
        self._longest, self._positions_are_learned = longest_context(model)
        self._shape: tuple[int, int] = (0, 0)
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
            **{name: value for name in HELD if (value := getattr(self.options, name))},
            **({"lora_revision": self.options.lora_revision} if self.options.lora else {}),
            **({"notes": list(self.notes)} if self.notes else {}),
        }

    def longest_context(self) -> int | None:
        """The most tokens that the model has positions for; None where it has no such limit."""
        return self._longest

    def vocabulary(self) -> str:
        tokens = sorted(self.tokenizer.get_vocab().items())
        return sha256(repr(tokens).encode()).hexdigest()[:16]

    def has_chat_template(self) -> bool:
        return self.tokenising.has_chat_template

    def to(self, device: torch.device) -> TransformersAdapter:
        """Move the model, unless its parts have places of their own (`device_map`)."""
        if not is_spread(self.model):
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
        return list(self._widths)

    def width(self, point: str) -> int:
        self._parse(point)
        return self._widths[point]

    def _parse(self, point: str) -> tuple[int, str]:
        if point in self._widths:
            return _split(point)
        _, number, *part = [*point.split("."), "", ""][:3]
        name = part[0]
        there = name in OFFERED and number.isdigit() and int(number) < len(self.layers) and point.startswith("layers.")
        if there:
            reason = self._parts[int(number)].reason or "replacing it by itself changes what the model gives"
            raise SiteError(
                f"model '{self.options.model}' ({type(self.model).__name__}) has no point '{point}': {reason}"
            )
        raise SiteError(
            f"model '{self.options.model}' has no point '{point}'; it has layers.0 to "
            f"layers.{len(self.layers) - 1}, each alone or with .input, .attention, .mlp_input or .mlp"
        )

    @cached_property
    def _parts(self) -> list[LayerParts]:
        """What each layer offers, measured on one row when the model is first asked."""
        with foreign_errors(f"the model '{self.options.model}', which fails on a row of tokens"):
            return find_parts(list(self.layers), text_config(self.model.config), self._tried)

    def _tried(self) -> Any:
        """What the model gives for one row, which must be numbers: nothing could be measured on it otherwise."""
        out = self._run(self._row())
        if bool((out.logits if self.causal else out[0]).isnan().any()):
            raise ConfigError(
                f"the model '{self.options.model}' gives NaN for a row of tokens: its weights are damaged, or too "
                f"large for dtype = '{self.options.dtype}'"
            )
        return out

    @cached_property
    def _widths(self) -> dict[str, int]:
        """Points and their widths; one that the model does not take back as it gave it is left out."""
        points = [
            f"layers.{number}{f'.{part}' if part else ''}"
            for number, found in enumerate(self._parts)
            for part in OFFERED
            if (found.residual if part in ("input", "") else getattr(found, part) is not None)
        ]
        points += [FINAL] if self.causal else []
        widths: dict[str, int] = {}
        plain = self._given([], widths)
        if not _alike(self._given(points, widths), plain):
            for part in (*OFFERED, FINAL):
                chosen = [point for point in points if _split(point)[1] == part]
                if not _alike(self._given(chosen, widths), plain):
                    points = [point for point in points if point not in chosen]
        return {point: widths[point] for point in points}

    def _given(self, points: Sequence[str], widths: dict[str, int]) -> Tensor:
        """What the model gives for one row where the activations at `points` are replaced by copies of themselves."""

        def same(point: str) -> Callable[[Tensor], Tensor]:
            def change(activation: Tensor) -> Tensor:
                widths[point] = activation.shape[-1]
                return activation.clone()

            return change

        with (
            torch.no_grad(),
            foreign_errors(f"the model '{self.options.model}', whose activations are not those of the tokens given"),
            _all_of(self._hooked(*_split(point), same(point)) for point in points),
        ):
            out = self._run(self._row())
        given: Tensor = out.logits if self.causal else out[0]
        return given.float()

    def _row(self) -> TokenBatch:
        size = int(text_config(self.model.config).vocab_size)
        ids = ((torch.arange(6) + 5) % size)[None]
        none = torch.zeros_like(ids, dtype=torch.bool)
        return TokenBatch(ids, ~none, none, none)

    @contextmanager
    def _hooked(self, number: int, part: str, change: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
        """Call `change` with the activations at a point; what it returns, if anything, replaces them."""
        layer = self.layers[number]
        if part in ("input", "mlp_input", FINAL):
            readers = {"input": layer, FINAL: self.model.get_output_embeddings() if part == FINAL else None}
            reader = readers[part] if part in readers else self._parts[number].mlp_input
            assert reader is not None
            handle = reader.register_forward_pre_hook(
                lambda _, args, kwargs: self._replace_input(args, kwargs, change), with_kwargs=True, prepend=True
            )
        else:
            found: Part | None = getattr(self._parts[number], part) if part else Part(layer)
            assert found is not None
            # Prepend the hook, so that the library's own capture hooks see the replacement too.
            handle = found.module.register_forward_hook(
                lambda _, args, kwargs, out: self._replace_output(found, args, kwargs, out, change),
                with_kwargs=True,
                prepend=True,
            )
        try:
            yield
        finally:
            handle.remove()

    def _replace_input(self, args: Any, kwargs: Any, change: Callable[[Tensor], Tensor | None]) -> Any:
        given = args[0] if args else kwargs["hidden_states"]
        new = change(self._by_token(given))
        if new is None:
            return None
        new = new.reshape(given.shape)
        return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})

    def _replace_output(
        self, part: Part, args: Any, kwargs: Any, out: Any, change: Callable[[Tensor], Tensor | None]
    ) -> Any:
        # Layers return a tensor, or a tuple or list that begins with one, and some blocks one row of all tokens.
        given = out[0] if isinstance(out, tuple | list) else out
        residual = residual_of(args, kwargs) if part.whole else None
        new = change(self._by_token(part.added(given, residual)))
        if new is None:
            return None
        new = part.returned(new.reshape(given.shape), residual)
        if isinstance(out, list):
            return [new, *out[1:]]
        return (new, *out[1:]) if isinstance(out, tuple) else new

    def _by_token(self, given: Tensor) -> Tensor:
        """Activations as (B, T, D): blocks may see all tokens as one row, and some streams side by side."""
        rows, length = self._shape
        if tuple(given.shape[:2]) in ((rows, length), (1, rows * length)) or (
            given.dim() == 2 and len(given) == rows * length
        ):
            return given.reshape(rows, length, -1)
        raise ValueError(f"they have the shape {tuple(given.shape)} for {rows} rows of {length} tokens")

    # -- running ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def activations(self, tokens: TokenBatch, points: Sequence[str]) -> dict[str, Tensor]:
        wanted, found, device = set(points), dict[str, Tensor](), input_device(self.model)
        order = [point for point in self.points() if point in wanted]
        for point in points:
            self._parse(point)

        def record(point: str) -> Callable[[Tensor], None]:
            def keep(activation: Tensor) -> None:
                # A copy, because the model may go on to write into it: Falcon adds attention to its MLP's output.
                found[point] = activation.detach().clone().to(device)
                if len(found) == len(wanted):
                    raise _AllFoundError

            return keep

        keywords = self._keywords(tokens)
        # The last hook raises it: the rest of the forward pass is not needed.
        with suppress(_AllFoundError), _all_of(self._hooked(*_split(point), record(point)) for point in order):
            self._run(tokens, keywords)
        return found

    @torch.no_grad()
    def logits(self, tokens: TokenBatch, edits: Sequence[Edit] = ()) -> Tensor:
        if not self.causal:
            raise ConfigError(f"model '{self.options.model}' is an encoder and gives no next-token logits")
        keywords = self._keywords(tokens)
        with _all_of(self._hooked(*self._parse(edit.point), edit.apply) for edit in edits):
            logits: Tensor = self._run(tokens, keywords).logits
        return logits.reshape(*tokens.ids.shape, -1).float()

    def scaled(self, factor: float) -> AbstractContextManager[None]:
        """Within, the adapter of peft in the model's layers counts `factor` times; `ConfigError` without one."""
        return scaled(self.model, factor, self.options.lora or self.options.model)

    def decoder(self, edits: Sequence[Edit] = ()) -> TransformersDecoder:
        if not self.causal:
            raise ConfigError(f"model '{self.options.model}' is an encoder and gives no next-token logits")
        return TransformersDecoder(self, edits)

    @torch.no_grad()
    def read_out(self, point: str, direction_KD: Tensor) -> Tensor:
        if not self.causal:
            raise ConfigError(f"model '{self.options.model}' is an encoder and gives no next-token logits")
        if self._parse(point)[1] == "mlp_input":
            raise SiteError(f"'{point}' is what an MLP reads and no part of the residual stream")
        norm = None if point == FINAL else last_norm(self.model, self.layers)
        return direct_effect(self.model.get_output_embeddings(), norm, direction_KD)

    def _run(self, tokens: TokenBatch, keywords: dict[str, Any] | None = None) -> Any:
        keywords = self._keywords(tokens) if keywords is None else keywords
        self._shape = (len(tokens.ids), tokens.ids.shape[1])
        return self.model(**keywords)

    def _keywords(self, tokens: TokenBatch) -> dict[str, Any]:
        """What the model's forward pass takes. Made before any hook is set, since it may run the model to find out."""
        keywords: dict[str, Any] = {"use_cache": False} if "use_cache" in self._forward_names else {}
        tokens = tokens.to(input_device(self.model))
        if tokens.is_packed:
            assert tokens.document is not None
            self._check_length(int(positions_within(tokens.document).amax()) + 1)
            keywords |= self.apart.keywords(tokens)
        else:
            self._check_length(tokens.ids.shape[1])
            keywords |= {"input_ids": tokens.ids, "attention_mask": tokens.attention.long()}
            keywords |= self._positions(tokens.attention)
        return keywords

    def _last_activations(self, tokens: TokenBatch) -> Tensor:
        """After the last layer, (B, T, D), which shows whatever was seen before it."""
        point = f"layers.{len(self.layers) - 1}"
        return self.activations(tokens, [point])[point]

    def _check_length(self, length: int) -> None:
        """Beyond a table of positions there is nothing to look up; rotary positions only grow unfamiliar."""
        if self._positions_are_learned and self._longest is not None and length > self._longest:
            raise ConfigError(f"model '{self.options.model}' reads at most {self._longest} tokens, not {length}")

    def _positions(self, attention_BT: Tensor) -> dict[str, Tensor]:
        if "position_ids" not in self._forward_names or not self.causal:
            return {}
        return {"position_ids": (attention_BT.long().cumsum(dim=1) - 1).clamp_min(0)}


class TransformersDecoder:
    """Reads growing contexts with the model's key-value cache."""

    def __init__(self, adapter: TransformersAdapter, edits: Sequence[Edit] = ()) -> None:
        from transformers import DynamicCache

        self.adapter, self.edits = adapter, tuple(edits)
        self.cache = DynamicCache(config=adapter.model.config)
        self._attention: Tensor | None = None

    @torch.no_grad()
    def advance(self, ids: Tensor, attention: Tensor) -> Tensor:
        """Read tokens (B, T), left-padded where `attention` is False; returns the next token's logits, (B, V) in
        fp32."""
        device = input_device(self.adapter.model)
        seen = (
            attention.to(device) if self._attention is None else torch.cat([self._attention, attention.to(device)], 1)
        )
        self._attention = seen
        self.adapter._check_length(seen.shape[1])
        positions = {k: v[:, -ids.shape[1] :] for k, v in self.adapter._positions(seen).items()}
        # The library renames the argument, and warns of the old name wherever it knows the new one.
        cache = "cache" if "cache" in self.adapter._forward_names else "past_key_values"
        with _all_of(self.adapter._hooked(*self.adapter._parse(edit.point), edit.apply) for edit in self.edits):
            # Only now, since finding out about positions and points may run the model on other tokens.
            self.adapter._shape = (len(ids), ids.shape[1])
            out = self.adapter.model(
                input_ids=ids.to(device),
                attention_mask=seen.long(),
                use_cache=True,
                **{cache: self.cache},
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


def _split(point: str) -> tuple[int, str]:
    if point == FINAL:
        return -1, FINAL
    _, number, *part = point.split(".")
    return int(number), part[0] if part else ""


def _alike(left: Tensor, right: Tensor) -> bool:
    """Equal but for rounding."""
    return bool((left - right).norm() <= 1e-3 * right.norm())


def _commit(options: TransformersConfig) -> str | None:
    """The commit that the Hub client's cache has for the revision; None for folders and models in memory."""
    try:
        place = place_of(options)
    except ConfigError:
        return None  # a model in memory may have any name
    if place.is_folder:
        return None
    name = f"{place.subfolder}/{place.gguf_file or 'config.json'}".lstrip("/")
    cached = try_to_load_from_cache(place.source, name, revision=place.revision)
    return Path(cached[: -len(name) - 1]).name if isinstance(cached, str) else None
