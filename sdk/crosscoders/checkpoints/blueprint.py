"""What a foreign checkpoint is, as its headers and config alone tell: a wiring and where in the files its blocks lie.

A format makes a `Blueprint`; the host shows it (`inspect`) or builds it, block by block (`assemble`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any, Protocol

import torch
from attrs import field, frozen
from attrs.validators import in_
from torch import Tensor

from ..converters import as_tuple
from ..crosscoder.wiring import SkipBlock, as_ties
from ..errors import CheckpointError
from .stored import View

Vector = Callable[[], Tensor]
"""A small tensor that is read when needed."""


class Rows(Protocol):
    """A matrix read by rows: a `View`, or anything else that can do it."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop` in fp32."""


@frozen(kw_only=True)
class Slot:
    """One place that the file reads or writes, by the number or name that it has there."""

    key: str
    width: int
    site: str = ""
    """The site `model/point`, where the file says it; else it must be answered."""
    what: str = ""
    """What is known of it: a hook name, a convention."""
    example: str = "model/layers.0"
    """What an answer could look like."""


@frozen(kw_only=True)
class Question:
    """Something that the file does not say and the numbers depend on."""

    key: str
    """The key in `answers={...}`."""
    text: str
    """What is not known, as a whole clause."""
    example: Any
    """An answer, for messages."""
    assumed: Any = None
    """What is taken, with a warning, if nobody answers: what the library's own loader takes. None: it must be
    answered."""
    choices: tuple[Any, ...] = field(default=(), converter=as_tuple)
    """All answers that there are; empty for any number, or any whole number from 1 on if `example` is one."""

    def check(self, value: Any) -> Any:
        """The answer `value`; `CheckpointError` if it cannot be one."""
        if self.choices:
            fits, wanted = value in self.choices, " or ".join(map(repr, self.choices))
        elif type(self.example) is int:
            fits, wanted = type(value) is int and value > 0, "a whole number from 1 on"
        else:
            fits, wanted = type(value) in (int, float) and isfinite(value), "a number"
        if not fits:
            raise CheckpointError(f"the answer '{self.key}' should be {wanted}, not {value!r}")
        return value


@frozen(kw_only=True, eq=False)
class GroupPlan:
    """A latent group and where its weights are. Keys of `reads` and `writes` are slots."""

    name: str
    num_latents: int
    reads: Mapping[str, Rows]
    """Encoder rows at each read slot, (F, D)."""
    writes: Mapping[str, Rows]
    """Decoder rows at each written slot, (F, D); of tied blocks only the first is read."""
    bias: Vector | None = None
    """Encoder bias (F,); None is zero."""
    threshold: Vector | None = None
    """For the gate jumprelu: what an activation must exceed, (F,)."""


@frozen(kw_only=True)
class GatePlan:
    """The inference gate."""

    name: str = field(default="relu", validator=in_(("relu", "jumprelu", "score_threshold", "topk")))
    score_threshold: float = 0.0
    """For score_threshold: what f·Σ_s‖d^s‖ must exceed."""
    k: int = 0
    by: str = "activation"
    per_group: bool = False
    """Whether each group keeps its own k."""
    divisor: tuple[float, float] = (0.0, 0.0)
    """For jumprelu, where the file's thresholds are on scaled latents: weights of ‖concatenated d‖ and of Σ_s‖d^s‖ in
    what they are divided by; (0, 0) for thresholds on f itself."""

    def __str__(self) -> str:
        if self.name == "topk":
            return f"topk (k {self.k} by {self.by}{', in each group' if self.per_group else ''})"
        return self.name


@frozen(kw_only=True, eq=False)
class Blueprint:
    """A crosscoder that could be built: with x̃ = scale·x at each slot, f = gate(W x̃ + b) and x̂ = (d·f + b)/scale."""

    format: str
    family: str
    """What it is called: "sparse autoencoder", "cross-layer transcoder" …"""
    version: str = ""
    """Which era or version of the format."""
    slots: tuple[Slot, ...] = field(converter=as_tuple)
    groups: tuple[GroupPlan, ...] = field(default=(), converter=as_tuple)
    decoder_bias: Mapping[str, tuple[Vector, ...]] = field(factory=dict)
    """At each written slot, vectors that add up."""
    subtract: Mapping[str, Vector] = field(factory=dict)
    """At a read slot, what is taken off x̃ before encoding; it goes into the encoder bias."""
    skip: Mapping[SkipBlock, Rows] = field(factory=dict)
    """(read slot, written slot) to the map, (D written, D read)."""
    ties: tuple[tuple[tuple[str, str], ...], ...] = field(default=(), converter=as_ties)
    """Sets of (group, slot) with the same decoder rows."""
    gate: GatePlan = GatePlan()
    unit_decoder: bool = False
    """Rescale every latent so that its decoder row has length 1, as the library itself returns them."""
    scales: Mapping[str, float] = field(factory=dict)
    """What activations are multiplied by at each slot; 1 where nothing is said here."""
    unknown_scales: tuple[str, ...] = field(default=(), converter=as_tuple)
    """Slots whose scale is in no file."""
    questions: tuple[Question, ...] = field(default=(), converter=as_tuple)
    """What the files do not say, answered or not."""
    models: Mapping[str, str] = field(factory=dict)
    """The model's id by model key, where the file says it."""
    dtype: torch.dtype = torch.float32
    """As stored."""
    size: int = 0
    """Bytes of the weights in the files."""
    config: Mapping[str, Any] = field(factory=dict)
    """The config as it was, by file."""
    changes: tuple[str, ...] = field(default=(), converter=as_tuple)
    """What reading changes, other than the order of axes."""
    assumed: tuple[str, ...] = field(default=(), converter=as_tuple)
    """What the file does not say and its format settles."""
    warnings: tuple[str, ...] = field(default=(), converter=as_tuple)
    refused: str = ""
    """Why no crosscoder of ours can hold it; empty where one can."""

    @property
    def num_latents(self) -> int:
        """F over all groups."""
        return sum(group.num_latents for group in self.groups)

    @property
    def unnamed(self) -> tuple[Slot, ...]:
        """Slots whose site must be answered."""
        return tuple(slot for slot in self.slots if not slot.site)


@frozen(kw_only=True)
class Answers:
    """What a user says that the files do not."""

    sites: Mapping[str, str] = field(factory=dict)
    """Slot to site; a star stands for the same in both, as in `{"in.*": "model/layers.*.mlp_input"}`."""
    normalisation: str | Mapping[str, float] | None = None
    """`none` (taken as they are), `estimate` (left unknown, for later), or the scale at each slot or site."""
    others: Mapping[str, Any] = field(factory=dict)
    """By the key of a `Question`."""

    def to(self, question: Question) -> Any:
        """The answer to a question; without one, what is assumed, or else an example that inspection can go on with."""
        if question.key in self.others:
            return question.check(self.others[question.key])
        return question.example if question.assumed is None else question.assumed

    def open(self, questions: Sequence[Question]) -> list[Question]:
        """Those that nobody has answered."""
        return [question for question in questions if question.key not in self.others]

    def site(self, slot: Slot, number: int) -> str:
        """The site of a slot, "" if nobody says."""
        for key in (slot.key, str(number), slot.site):
            if key and key in self.sites:
                return self.sites[key]
        for pattern, site in self.sites.items():
            if "*" in pattern and (found := _matched(pattern, slot.key)) is not None:
                return site.replace("*", found)
        return slot.site

    def scale(self, slot: Slot, site: str) -> float | None:
        """The scale that was answered for a slot."""
        if self.normalisation == "none":
            return 1.0
        if isinstance(self.normalisation, Mapping):
            found = self.normalisation.get(site, self.normalisation.get(slot.key))
            return None if found is None else float(found)
        if self.normalisation not in (None, "estimate"):
            raise CheckpointError(
                f"normalisation must be 'none', 'estimate' or a scale for each site, not {self.normalisation!r}"
            )
        return None


def _matched(pattern: str, key: str) -> str | None:
    """What the star of `pattern` stands for in `key`: `in.*` in `in.3` is `3`."""
    before, _, after = pattern.partition("*")
    if len(key) <= len(before) + len(after) or not (key.startswith(before) and key.endswith(after)):
        return None
    return key[len(before) : len(key) - len(after)]


def stored_size(*parts: View) -> int:
    """Bytes of the stored tensors that views are of."""
    return sum({part.stored.name: part.stored.size for part in parts}.values())
