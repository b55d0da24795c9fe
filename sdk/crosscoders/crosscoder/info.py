"""What a crosscoder knows about how it was made; its checkpoint records it."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from attrs import field, frozen
from attrs.validators import instance_of

from ..plugins.choices import ArchitectureChoice, Choice, parts_of, unstructure
from ..plugins.offers import Offer
from ..plugins.registry import Registry, get_registry
from .explanations import Explanations


@frozen(kw_only=True)
class CheckpointInfo:
    """What a checkpoint records besides weights. All of it is plain JSON data."""

    architecture: dict[str, Any] = field(validator=instance_of(dict))
    """The architecture: its `name`, `plugin`, `distribution`, `version` and `config`."""
    loss: dict[str, Any] = field(factory=dict, validator=instance_of(dict))
    """The loss: its `name`, `plugin`, `distribution`, `version` and `config`. Loading does not need it."""
    models: dict[str, Any] = field(factory=dict, validator=instance_of(dict))
    """The models by key: adapter, id, revision, and the config from which the adapter can be rebuilt."""
    recipe: dict[str, Any] = field(factory=dict, validator=instance_of(dict))
    """The run's config."""
    reading: dict[str, Any] = field(factory=dict, validator=instance_of(dict))
    """How the tokens were read: `packing` (`apart`, `single` or `across`), `passes` over the source, `skipped` rows,
    and `stopped`, why fewer were read than the recipe says, where an observer ended the run."""
    metrics: dict[str, Any] = field(factory=dict, validator=instance_of(dict))
    """Held-out metrics with the inference gate."""
    origin: dict[str, Any] = field(factory=dict, validator=instance_of(dict))
    """Where weights that another library trained come from: format, repository and revision, sha256 of each file,
    the config as it was, what was answered, what was changed. Empty for our own."""
    needs: list[dict[str, str]] = field(factory=list, validator=instance_of(list))
    """The components of other distributions than this one that the recipe names, and the gate: `component` (its kind
    and name), `plugin`, `distribution`, `version`."""
    made_with: dict[str, str] = field(validator=instance_of(dict))
    """The versions of this package and of torch."""

    own: bool = field(default=False, validator=instance_of(bool))
    """Whether the recipe is that of a run of this user, so that it may name local files; never written into a file."""
    folder: Path | None = field(default=None, eq=False)
    """The folder of this machine that the crosscoder was loaded from; never written into a file."""
    explanations: Explanations = field(factory=dict, validator=instance_of(dict))
    """What latents respond to, from `explanations.json`, which stands beside the weights: by latent its `explanation`
    and its scores, if there are any."""

    @made_with.default
    def _made_with(self) -> dict[str, str]:
        return {"crosscoders": version("crosscoders"), "torch": torch.__version__}

    @classmethod
    def from_architecture(cls, choice: ArchitectureChoice, *, registry: Registry | None = None) -> CheckpointInfo:
        """The minimal record, for a crosscoder that was not trained by a run."""
        return cls(architecture=component_record(choice, registry or get_registry()))


def needs_of(config: Any, registry: Registry) -> list[dict[str, str]]:
    """What a config names of other distributions than this one, once each: see `CheckpointInfo.needs`."""
    offers = [part.offer(registry) for part in parts_of(config) if isinstance(part, Choice)]
    return list({str(offer): need(offer) for offer in offers if offer.provider.distribution != "crosscoders"}.values())


def need(offer: Offer[Any]) -> dict[str, str]:
    """One entry of `CheckpointInfo.needs`."""
    provider = offer.provider
    return {
        "component": f"{offer.kind} '{offer.spec.name}'",
        "plugin": provider.plugin,
        "distribution": provider.distribution,
        "version": provider.version,
    }


def component_record(choice: Choice, registry: Registry) -> dict[str, Any]:
    """What a checkpoint records about a component: its name, plugin, distribution, version and options."""
    provider = choice.offer(registry).provider
    return {
        "name": choice.offer(registry).spec.name,
        "plugin": provider.plugin,
        "distribution": provider.distribution,
        "version": provider.version,
        "config": unstructure(choice.options),
    }
