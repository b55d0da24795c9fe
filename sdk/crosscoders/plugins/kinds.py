"""The kinds of components: the hook and the record of each, and what a hook may yield."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

from ..errors import PluginError, shown
from .specs import (
    AnalysisSpec,
    ArchitectureSpec,
    CheckpointFormatSpec,
    CommandSpec,
    ComponentSpec,
    GateSpec,
    LossSpec,
    LossTermSpec,
    MetricSpec,
    ModelAdapterSpec,
    ObserverSpec,
    ReleaseSpec,
    TokenSourceSpec,
)

KINDS: Mapping[str, tuple[str, type[ComponentSpec]]] = {
    "architecture": ("crosscoders_architectures", ArchitectureSpec),
    "loss": ("crosscoders_losses", LossSpec),
    "loss term": ("crosscoders_loss_terms", LossTermSpec),
    "model adapter": ("crosscoders_model_adapters", ModelAdapterSpec),
    "analysis": ("crosscoders_analyses", AnalysisSpec),
    "token source": ("crosscoders_token_sources", TokenSourceSpec),
    "checkpoint format": ("crosscoders_checkpoint_formats", CheckpointFormatSpec),
    "gate": ("crosscoders_gates", GateSpec),
    "observer": ("crosscoders_observers", ObserverSpec),
    "metric": ("crosscoders_metrics", MetricSpec),
    "command": ("crosscoders_commands", CommandSpec),
    "release": ("crosscoders_pretrained", ReleaseSpec),
}
"""The hook and the record class of each kind of component."""

MOST_RECORDS = 1000
"""Records that one hook may yield; more are a fault, not an offer."""


def component_command(kind: str, name: str = "") -> str:
    """The command that lists the components of a kind, or the options of one."""
    return " ".join(filter(None, ("crosscoders components", kind.replace(" ", "-"), name)))


def read_records(impl: Any, hook: str, record: type[ComponentSpec]) -> list[ComponentSpec]:
    """What an implementation of a hook yields; `PluginError` for anything but records of other names each."""
    if impl.hookwrapper or impl.wrapper:
        raise PluginError(f"{hook} only declares components, so it cannot be wrapped")
    specs: list[ComponentSpec] = []
    names: set[str] = set()
    for spec in islice(impl.function() or (), MOST_RECORDS + 1):
        if not isinstance(spec, record):
            raise PluginError(f"{hook} yielded {shown(spec)}, which is not a {record.__name__}")
        if spec.name in names:
            raise PluginError(f"{hook} yielded the name '{spec.name}' twice")
        if len(specs) == MOST_RECORDS:
            raise PluginError(f"{hook} yielded more than {MOST_RECORDS:,} records")
        names.add(spec.name)
        specs.append(spec)
    return specs
