"""What a crosscoder knows of its making, which its checkpoint records."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import torch
from attrs import field, frozen
from attrs.validators import instance_of

from ..plugins.choices import ArchitectureChoice, Choice, unstructure
from ..plugins.registry import Registry, get_registry


@frozen(kw_only=True)
class CheckpointInfo:
    """What a checkpoint records besides weights: all plain JSON data."""

    architecture: dict[str, Any] = field(validator=instance_of(dict))
    """`name`, `plugin`, `distribution`, `version`, `config` of the architecture."""
    loss: dict[str, Any] = field(factory=dict, validator=instance_of(dict))
    """The same of the loss; loading does not need it."""
    models: dict[str, Any] = field(factory=dict, validator=instance_of(dict))
    """By model key: adapter, id, revision, and the config to build the adapter again."""
    recipe: dict[str, Any] = field(factory=dict, validator=instance_of(dict))
    """The run's config."""
    metrics: dict[str, Any] = field(factory=dict, validator=instance_of(dict))
    """Held-out metrics with the inference gate."""
    origin: dict[str, Any] = field(factory=dict, validator=instance_of(dict))
    """Where weights that another library trained come from: format, repository and revision, sha256 of each file,
    the config as it was, what was answered, what was changed. Empty for our own."""
    made_with: dict[str, str] = field(validator=instance_of(dict))
    """Versions of this package and torch."""

    @made_with.default
    def _made_with(self) -> dict[str, str]:
        return {"crosscoders": version("crosscoders"), "torch": torch.__version__}

    @classmethod
    def from_architecture(cls, choice: ArchitectureChoice, *, registry: Registry | None = None) -> CheckpointInfo:
        """The minimal record, for crosscoders that no run has trained."""
        return cls(architecture=component_record(choice, registry or get_registry()))


def component_record(choice: Choice, registry: Registry) -> dict[str, Any]:
    """What a checkpoint records of a component: its name, plugin, distribution, version and options."""
    provider = choice.offer(registry).provider
    return {
        "name": choice.offer(registry).spec.name,
        "plugin": provider.plugin,
        "distribution": provider.distribution,
        "version": provider.version,
        "config": unstructure(choice.options),
    }
