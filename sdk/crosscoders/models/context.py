"""How many tokens models can read at once."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import ConfigError
from .adapter import ModelAdapter


def longest_context(adapter: ModelAdapter) -> int | None:
    """The most tokens that a model reads, where its adapter knows: adapters may say so by a method of this name."""
    known = getattr(adapter, "longest_context", None)
    return known() if callable(known) else None


def check_context(adapters: Mapping[str, ModelAdapter], context_length: int) -> None:
    """`ConfigError` names a model that cannot read rows of `context_length` tokens."""
    for key, adapter in adapters.items():
        longest = longest_context(adapter)
        if longest is not None and longest < context_length:
            raise ConfigError(
                f"context_length is {context_length}, but the model '{key}' has positions for {longest} tokens only"
            )
