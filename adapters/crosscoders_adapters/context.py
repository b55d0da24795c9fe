"""How many tokens a model of the transformers library has positions for."""

from __future__ import annotations

from typing import Any

from torch import nn

from .anatomy import text_part

LENGTHS = ("max_position_embeddings", "n_positions", "n_ctx")
ENDLESS = ("dynamic", "yarn", "longrope", "llama3")
"""Kinds of rotary positions whose stated length is not where they end, or was stretched already."""


def longest_context(model: Any) -> tuple[int | None, bool]:
    """The most tokens, None where nothing limits them, and whether positions are learned, so that there are no more.

    A config's number alone says little: models with relative positions or none carry one too.
    """
    config = getattr(model.config, "text_config", model.config)
    stated = next((int(n) for name in LENGTHS if isinstance(n := getattr(config, name, None), int) and n > 0), None)
    tables = [
        module
        for name, module in text_part(model).named_modules()
        if isinstance(module, nn.Embedding) and _is_position_table(name.rpartition(".")[2])
    ]
    if tables:
        # RoBERTa and its kin count positions from after the padding's own.
        rooms = [table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1) for table in tables]
        return min([*rooms, *([stated] if stated else [])]), True
    rotary = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
    if isinstance(rotary, dict) and rotary.get("rope_type", "default") not in ENDLESS:
        return stated, False
    return None, False


def _is_position_table(name: str) -> bool:
    return name in ("wpe", "embed_positions", "position_embeddings", "position_embedding", "positions_embed")
