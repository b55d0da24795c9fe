"""Gates: which latents are on at inference. A loss produces one at the end of training, and checkpoints store it.

A gate sees pre-activations and, per latent, the summed decoder norm n, because selection uses the score f·n, which does
not change when a latent's encoder and decoder are rescaled against each other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from attrs import field, frozen
from attrs.validators import ge, in_
from torch import Tensor, nn

from ..converters import as_tuple
from ..errors import CheckpointError, ConfigError, CrosscodersError, shown
from ..plugins.choices import structure
from ..plugins.isolation import worded
from ..plugins.offers import Offer
from ..plugins.registry import Registry, get_registry


class Gate(nn.Module, ABC):
    """The base class of gates. A gate's buffers are saved with the crosscoder."""

    name: ClassVar[str]
    """What its record (`GateSpec`) is called."""

    @abstractmethod
    def keep(self, f_BF: Tensor, norm_F: Tensor) -> Tensor:
        """Boolean (B, F): which of the non-negative activations `f_BF` stay on."""

    def options(self) -> dict[str, Any]:
        """The options, besides the buffers, that `gate_from_config` needs to rebuild this gate."""
        return {}


class ReluGate(Gate):
    """Keeps a latent on wherever its pre-activation is positive (L1)."""

    name = "relu"

    def keep(self, f_BF: Tensor, norm_F: Tensor) -> Tensor:
        return f_BF > 0


class ScoreThresholdGate(Gate):
    """Keeps a latent on where f·Σ_s‖d^s‖ exceeds a threshold (BatchTopK at inference; Minder et al. 2025, §3.2).

    There is one threshold for all latents or, with `num_latents`, one for each.
    """

    name = "score_threshold"
    threshold: Tensor

    def __init__(self, threshold: float = 0.0, *, num_latents: int = 0) -> None:
        super().__init__()
        value = torch.tensor(threshold, dtype=torch.float32)
        self.register_buffer("threshold", value.repeat(num_latents) if num_latents else value)

    def options(self) -> dict[str, Any]:
        return {"num_latents": len(self.threshold)} if self.threshold.ndim else {}

    def keep(self, f_BF: Tensor, norm_F: Tensor) -> Tensor:
        return (f_BF > 0) & (f_BF * norm_F > self.threshold)


class JumpReluGate(Gate):
    """Keeps a latent on where f exceeds its own threshold (Rajamanoharan et al. 2024)."""

    name = "jumprelu"
    threshold_F: Tensor

    def __init__(self, num_latents: int) -> None:
        super().__init__()
        self.register_buffer("threshold_F", torch.zeros(num_latents))

    def keep(self, f_BF: Tensor, norm_F: Tensor) -> Tensor:
        return (f_BF > 0) & (f_BF > self.threshold_F)

    def options(self) -> dict[str, Any]:
        return {"num_latents": len(self.threshold_F)}


class TopKGate(Gate):
    """The k largest scores of each token, or the k largest activations, among all latents or within each group.

    `by` is "score" (f·Σ_s‖d^s‖, ours) or "activation" (f, that of most public TopK files); `group_sizes` divides the
    latents, in order, into groups that each keep k (a transcoder for each layer).
    """

    name = "topk"

    def __init__(self, k: int, *, by: str = "score", group_sizes: Sequence[int] = ()) -> None:
        super().__init__()
        if by not in ("score", "activation"):
            raise CheckpointError(f"a topk gate ranks by 'score' or by 'activation', not by '{by}'")
        self.k, self.by, self.group_sizes = k, by, tuple(group_sizes)

    def keep(self, f_BF: Tensor, norm_F: Tensor) -> Tensor:
        rank_BF = f_BF * norm_F if self.by == "score" else f_BF
        keep_BF = torch.zeros_like(f_BF, dtype=torch.bool)
        parts = list(self.group_sizes) or [f_BF.shape[1]]
        for rank_BG, keep_BG in zip(torch.split(rank_BF, parts, 1), torch.split(keep_BF, parts, 1), strict=True):
            largest_BK = rank_BG.topk(min(self.k, rank_BG.shape[1]), dim=1).indices
            keep_BG.scatter_(1, largest_BK, True)
        return keep_BF & (f_BF > 0)

    def options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"k": self.k}
        if self.by != "score":
            options["by"] = self.by
        if self.group_sizes:
            options["group_sizes"] = list(self.group_sizes)
        return options


@frozen(kw_only=True)
class ReluGateConfig:
    """No options."""


@frozen(kw_only=True)
class ScoreThresholdGateConfig:
    """How many thresholds there are."""

    num_latents: int = field(default=0, validator=ge(0))
    """Latents with a threshold each; 0 for one of all."""


@frozen(kw_only=True)
class JumpReluGateConfig:
    """How many thresholds there are."""

    num_latents: int = field(validator=ge(1))
    """Latents, each with its threshold."""


@frozen(kw_only=True)
class TopKGateConfig:
    """How many latents stay on."""

    k: int = field(validator=ge(1))
    """Latents of each token."""
    by: str = field(default="score", validator=in_(("score", "activation")))
    """What is ranked: activations times summed decoder norms, or activations alone."""
    group_sizes: tuple[int, ...] = field(default=(), converter=as_tuple)
    """Sizes of groups of latents that each keep k, in order; empty for all latents together."""


def make_relu(options: ReluGateConfig) -> ReluGate:
    """Build of the record `relu`."""
    return ReluGate()


def make_score_threshold(options: ScoreThresholdGateConfig) -> ScoreThresholdGate:
    """Build of the record `score_threshold`."""
    return ScoreThresholdGate(num_latents=options.num_latents)


def make_jumprelu(options: JumpReluGateConfig) -> JumpReluGate:
    """Build of the record `jumprelu`."""
    return JumpReluGate(options.num_latents)


def make_topk(options: TopKGateConfig) -> TopKGate:
    """Build of the record `topk`."""
    return TopKGate(options.k, by=options.by, group_sizes=options.group_sizes)


def gate_from_config(description: Mapping[str, Any], *, registry: Registry | None = None) -> Gate:
    """Build a gate from `{"name": ..., **options}`; its buffers are loaded afterwards.

    `CheckpointError` where no plugin offers it, or where its options cannot be meant.
    """
    options = dict(description)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise CheckpointError(f"a gate should be a table with a name, not {shown(description)}")
    try:
        offer = (registry or get_registry()).gates[name]
        return _made(offer, options, registry)
    except CrosscodersError as error:
        raise CheckpointError(f"gate '{name}' cannot be made with {shown(options)}: {error}") from error


def describe_gate(gate: Gate, *, registry: Registry | None = None) -> dict[str, Any]:
    """The description that `gate_from_config` makes `gate` of again; `CheckpointError` where nothing would.

    The host's own gates go by their name, others by plugin and name.
    """
    registry, name = registry or get_registry(), getattr(gate, "name", None)
    expected = {key: tuple(value.shape) for key, value in gate.state_dict().items()}
    problem = "no plugin offers a gate called so"
    for offer in (*registry.gates.built_in, *registry.gates.offers):
        if offer.spec.name != name:
            continue
        try:
            with torch.device("meta"):
                again = _made(offer, gate.options(), registry)
        except CrosscodersError as error:
            problem = f"{offer} does not take its options {shown(gate.options())}: {error}"
            continue
        if type(again) is type(gate) and {k: tuple(v.shape) for k, v in again.state_dict().items()} == expected:
            return {"name": offer.spec.name if offer.is_built_in else offer.qualified_name, **gate.options()}
        problem = f"{offer} makes another one of its options"
    raise CheckpointError(
        f"the gate {type(gate).__name__}, called {name!r}, could be saved but not loaded: {problem}; a plugin offers "
        "gates by the hook crosscoders_gates"
    )


def _made(offer: Offer[Any], options: Mapping[str, Any], registry: Registry | None) -> Gate:
    config = structure(dict(options), offer.config_class(), registry=registry)
    try:
        gate: Gate = offer.build(config)
    except CrosscodersError as error:
        raise ConfigError(str(error)) from error
    return gate


@torch.no_grad()
def check_gate(gate: Gate, num_latents: int) -> None:
    """Refuse, by a `CheckpointError`, a gate with thresholds or places for another number of latents."""
    k = gate.options().get("k")
    if isinstance(k, int) and k > num_latents:
        raise CheckpointError(f"gate '{gate.name}' keeps {shown(k)} latents of each token, but there are {num_latents}")
    like = next(gate.buffers(), torch.zeros(()))
    f_BF = torch.zeros(1, num_latents, device=like.device)
    try:
        keep_BF = gate.keep(f_BF, f_BF[0])
        fits = keep_BF.shape == f_BF.shape and keep_BF.dtype == torch.bool
    except Exception as error:  # shapes that do not go together, or a plugin's own fault
        raise CheckpointError(f"gate '{gate.name}' does not suit {num_latents} latents: {worded(error)}") from error
    if not fits:
        raise CheckpointError(f"gate '{gate.name}' does not suit {num_latents} latents")
