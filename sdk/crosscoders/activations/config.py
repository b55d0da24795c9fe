"""Which activations are harvested, and how they are masked and shuffled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import field, frozen
from attrs.validators import ge, in_, le, optional

from ..plugins.choices import ModelChoice, TokenSourceChoice, unstructure
from .masks import MaskConfig


@frozen(kw_only=True)
class ActivationConfig:
    """How activations are harvested and shuffled."""

    context_length: int = field(default=128, validator=ge(2))
    """Tokens in a sequence."""
    pack: bool = True
    """Let documents follow each other without padding; without, one document is one sequence."""
    rows_per_forward: int = field(default=64, validator=ge(1))
    """Sequences in one forward pass of a model."""
    block_tokens: int = field(default=65_536, validator=ge(1))
    """Tokens harvested at a time; about twice as many are held in memory."""
    calibration_tokens: int = field(default=32_768, validator=ge(1))
    """Tokens from which norms and means are estimated before training."""
    held_out_share: float = field(default=0.05, validator=[ge(0.0), le(0.5)])
    """Share of documents kept for evaluation, chosen by content."""
    buffer_dtype: str = field(default="float32", validator=in_(("float32", "bfloat16")))
    """How activations wait for their batch."""
    seed: int | None = field(default=None, validator=optional(ge(0)))
    """Decides the order of tokens in training; without, the run's seed does."""
    prefetch: str = field(default="auto", validator=in_(("auto", "on", "off")))
    """Get the next block in a thread while this one is trained on. `auto`: where that costs training nothing, with
    models on a GPU or activations from a cache."""
    masks: MaskConfig = field(factory=MaskConfig)
    """Which tokens are left out."""


@frozen(kw_only=True)
class HarvestConfig:
    """Everything that decides which activations a run trains on: the part of its config that harvesting needs."""

    models: Mapping[str, ModelChoice]
    """Models by the key that site names begin with."""
    sites: tuple[str, ...]
    """`model/point` names, in the order of the columns."""
    tokens: TokenSourceChoice
    """Where documents come from."""
    tokenizer: str
    """Key of the model whose tokenizer reads the documents; empty lets `reading_adapter` choose."""
    activations: ActivationConfig
    """How activations are harvested, masked and shuffled."""
    mixed_precision: str
    """Precision that the models run in, `no` or `bf16`."""

    def identity(self) -> dict[str, Any]:
        """Plain JSON data that two configs share exactly when they harvest the same activations."""
        data: dict[str, Any] = unstructure(self)
        for key in ("rows_per_forward", "prefetch", "seed"):
            del data["activations"][key]
        return data
