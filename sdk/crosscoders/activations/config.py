"""Which activations are harvested, and how they are masked and shuffled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import field, frozen
from attrs.validators import ge, in_, le, optional

from ..plugins.choices import ModelChoice, TokenSourceChoice, unstructure
from .masks import MaskConfig

PACK: tuple[Any, ...] = (True, False, "across")
"""What `pack` may be."""


@frozen(kw_only=True)
class ActivationConfig:
    """How activations are harvested and shuffled."""

    context_length: int = field(default=128, validator=ge(2))
    """Tokens in a sequence."""
    pack: bool | str = field(default=True, validator=in_(PACK))
    """`true`: several documents in one row, each read as if it were alone, where all models can do that (it is tried
    before the first token; where they cannot, and with `false`, each document has rows of its own). "across": documents
    follow each other as one text, and models read over their ends. The checkpoint says which it was."""
    rows_per_forward: int = field(default=64, validator=ge(1))
    """Number of sequences in one forward pass of a model."""
    block_tokens: int = field(default=65_536, validator=ge(1))
    """Tokens harvested at a time. Memory holds about twice as many, because two blocks are shuffled together."""
    calibration_tokens: int = field(default=32_768, validator=ge(1))
    """Tokens from which norms and means are estimated before training."""
    held_out_share: float = field(default=0.05, validator=[ge(0.0), le(0.5)])
    """Share of documents held out for evaluation, chosen by a hash of their content."""
    buffer_dtype: str = field(default="float32", validator=in_(("float32", "bfloat16")))
    """Type in which activations are buffered or cached until they are trained on; `bfloat16` halves the memory."""
    seed: int | None = field(default=None, validator=optional(ge(0)))
    """Seed of the order in which tokens are trained on; by default the run's own seed."""
    prefetch: str = field(default="auto", validator=in_(("auto", "on", "off")))
    """Whether a thread fetches the next block while training uses the current one. `auto` does so where it does not
    slow training down: with models on a GPU, or activations from a cache."""
    masks: MaskConfig = field(factory=MaskConfig)
    """Which tokens are masked, that is, left out of training and evaluation."""


@frozen(kw_only=True)
class HarvestConfig:
    """Everything that decides which activations a run trains on: the part of its config that harvesting needs."""

    models: Mapping[str, ModelChoice]
    """Models by key; a site name begins with the key of its model."""
    sites: tuple[str, ...]
    """Site names, `model/point`, in column order."""
    tokens: TokenSourceChoice
    """Where documents come from."""
    tokenizer: str
    """Key of the model whose tokenizer reads the documents; empty lets `reading_adapter` choose."""
    activations: ActivationConfig
    """How activations are harvested, masked and shuffled."""
    mixed_precision: str
    """Precision that the models run in: `no` (fp32) or `bf16`."""

    def identity(self) -> dict[str, Any]:
        """Plain JSON data that is equal for two configs exactly when they harvest the same activations."""
        data: dict[str, Any] = unstructure(self)
        for key in ("rows_per_forward", "prefetch", "seed"):
            del data["activations"][key]
        if not data["activations"]["masks"]["roles"]:
            del data["activations"]["masks"]["roles"]  # as caches have it that are older than the option
        return data
