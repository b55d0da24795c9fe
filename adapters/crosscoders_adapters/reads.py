"""A transformers model that reads text: the tokens of documents, and the keywords of a forward pass over rows of them.

Adapters differ in how they take activations from the model; what they give it is the same.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import try_to_load_from_cache
from torch import Tensor, nn

from crosscoders import Chat, ConfigError, Document, DocumentError, TokenBatch, Tokenized

from .anatomy import is_causal
from .context import longest_context
from .loading import Loaded, TransformersConfig, place_of
from .packing import Apart, positions_within
from .placement import input_device
from .tokenising import Tokenising

HELD = ("subfolder", "gguf_file", "quantisation", "lora", "merge")
"""Options that make another model of one name, and are part of its description where they are set."""


class Reads:
    """The base of adapters of transformers models; they give activations in `_deep`, and what else they can."""

    kind: str
    """The adapter's name."""

    def __init__(self, options: TransformersConfig, loaded: Loaded) -> None:
        self.options, self.notes = options, loaded.notes
        self.model: Any = loaded.model.eval().requires_grad_(False)
        self.tokenizer, self.causal = loaded.tokenizer, loaded.causal
        self._longest, self._positions_are_learned = longest_context(self.model)
        self._forward_names = set(inspect.signature(self.model.forward).parameters)
        self.tokenising = Tokenising(
            self.tokenizer, options.model, date=options.template_date, variables=options.template_variables
        )
        self.apart = Apart(
            self.model, self._forward_names, causal=self.causal, forward=self._deep, name=self.options.model
        )

    @classmethod
    def wrap(cls, model: nn.Module, tokenizer: Any, *, name: str = "in-memory") -> Self:
        """Make an adapter for a model that is already in memory: fine-tuned, merged, or built from a config.

        A model that PEFT has wrapped is run from the inside, where its LoRA weights are: the wrapper hides which
        arguments the model takes, and with them the positions of padded rows.
        """
        inner: Any = model
        inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
        if getattr(inner.config, "is_encoder_decoder", False):
            inner = inner.get_encoder()  # what reads text without being given more
        return cls(TransformersConfig(model=name), Loaded(inner, tokenizer, is_causal(inner)))

    def _deep(self, tokens: TokenBatch) -> Tensor:
        """Activations late in the model, (B, T, D), which show whatever was seen before them."""
        raise AssertionError("the adapter's own")

    # -- identity -----------------------------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """Hub id or path, the revision asked for and, if the files came from the Hub, the commit they came from."""
        return {
            "adapter": self.kind,
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

    # -- tokens -------------------------------------------------------------------------------------------------

    def has_chat_template(self) -> bool:
        return self.tokenising.has_chat_template

    def tokenize(self, document: Document) -> Tokenized:
        tokens = self.tokenising.tokenize(document)
        # On a GPU, an id beyond the embeddings would end the process.
        largest = max(tokens.ids, default=0)
        if self._size is not None and largest >= self._size:
            raise DocumentError(
                f"the model '{self.options.model}' has embeddings for the token ids below {self._size:,}, and this "
                f"document has {largest:,}"
            )
        return tokens

    def tokens_of(self, chat: Chat, roles: Sequence[str]) -> Sequence[bool]:
        return self.tokenising.tokens_of(chat, roles)

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

    @cached_property
    def _size(self) -> int | None:
        """How many token ids the model has embeddings for, where it tells; the tokenizer may know more or fewer."""
        try:
            return int(self.model.get_input_embeddings().num_embeddings)
        except (AttributeError, NotImplementedError):
            return None

    # -- running ------------------------------------------------------------------------------------------------

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

    def _from_the_left(self, tokens: TokenBatch) -> tuple[TokenBatch, Callable[[Tensor], Tensor]]:
        """Rows as the model can read them, and how activations (B, T, D) of theirs go back to the places asked for.

        Decoders are given positions. Encoders with a table of them count from the row's first place, padding or not.
        """
        begin_B1 = tokens.attention.int().argmax(dim=1, keepdim=True)
        if self.causal or not bool(begin_B1.any()):
            return tokens, lambda activation: activation
        length = tokens.ids.shape[1]
        place_BT = torch.arange(length, device=begin_B1.device)[None]
        there_BT, back_BT = (place_BT + begin_B1) % length, (place_BT - begin_B1) % length
        moved = tokens.mapped(lambda tensor: tensor.gather(1, there_BT))

        def back(activation: Tensor) -> Tensor:
            index = back_BT.to(activation.device)[..., None].expand_as(activation)
            return activation.gather(1, index)

        return moved, back

    def _check_length(self, length: int) -> None:
        """Beyond a table of positions there is nothing to look up; rotary positions only grow unfamiliar."""
        if self._positions_are_learned and self._longest is not None and length > self._longest:
            raise ConfigError(f"model '{self.options.model}' reads at most {self._longest} tokens, not {length}")

    def _positions(self, attention_BT: Tensor) -> dict[str, Tensor]:
        if "position_ids" not in self._forward_names or not self.causal:
            return {}
        return {"position_ids": (attention_BT.long().cumsum(dim=1) - 1).clamp_min(0)}

    def _check_causal(self) -> None:
        if not self.causal:
            raise ConfigError(f"model '{self.options.model}' is an encoder and gives no next-token logits")


class Context:
    """What the model has read so far, in its key-value cache."""

    def __init__(self, adapter: Reads) -> None:
        from transformers import DynamicCache

        self.adapter = adapter
        self.cache = DynamicCache(config=adapter.model.config)
        self._attention: Tensor | None = None

    def read_on(self, ids: Tensor, attention: Tensor) -> dict[str, Any]:
        """The keywords of a forward pass over the next tokens (B, T), left-padded where `attention` is False."""
        adapter, device = self.adapter, input_device(self.adapter.model)
        attention = attention.to(device)
        self._attention = attention if self._attention is None else torch.cat([self._attention, attention], dim=1)
        adapter._check_length(self._attention.shape[1])
        positions = {k: v[:, -ids.shape[1] :] for k, v in adapter._positions(self._attention).items()}
        # The library renames the argument, and warns of the old name wherever it knows the new one.
        cache = "cache" if "cache" in adapter._forward_names else "past_key_values"
        return {
            "input_ids": ids.to(device),
            "attention_mask": self._attention.long(),
            "use_cache": True,
            cache: self.cache,
            **positions,
        }


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
