"""A replacement model from saved crosscoders: with the model that they record, or another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..analysis.recipe import StudyRecipe
from ..crosscoder.module import Crosscoder
from ..errors import AnalysisError
from ..models.adapter import ModelAdapter
from ..plugins.choices import ModelChoice, structure
from ..plugins.registry import Registry, get_registry
from .replacement import ReplacementModel

NO_TOKENS = object()
"""In the place of tokens, which a graph does not need."""


def replacement_model(
    crosscoders: Crosscoder | Sequence[Crosscoder],
    model: Any = None,
    *,
    trust_recipe: bool = False,
    say: Callable[[str], None] | None = None,
    registry: Registry | None = None,
) -> ReplacementModel:
    """A replacement model of crosscoders that were trained on one model.

    `model` is a Hub id or folder, a table `{"name": ..., **options}`, or an adapter; None for the one that the
    crosscoders record. What a recipe names on this machine is read only with `trust_recipe`, or where the crosscoder is
    of this user's own run. `say` is told which model is read.
    """
    several = [crosscoders] if isinstance(crosscoders, Crosscoder) else list(crosscoders)
    if not several:
        raise AnalysisError("a replacement model needs at least one crosscoder")
    registry, recorded, chosen = registry or get_registry(), [], model
    for crosscoder in several:
        keys = sorted({site.model for site in crosscoder.sites})
        if len(keys) > 1 or isinstance(model, ModelAdapter):
            continue  # refused later, with the reason, or not needed
        recipe = StudyRecipe.of(crosscoder, None if model is None else {keys[0]: model}, NO_TOKENS)
        recipe.check(trusted=trust_recipe or bool(crosscoder.info and crosscoder.info.own), registry=registry)
        chosen = recipe.models[keys[0]]
        recorded.append(chosen)
    if any(one != recorded[0] for one in recorded):
        raise AnalysisError(
            f"the crosscoders record different models: {recorded[0]!r} and "
            f"{next(one for one in recorded if one != recorded[0])!r}; say which with model= (--model)"
        )
    if chosen is None:
        raise AnalysisError("a crosscoder of several models has no graph: it needs latents of one model's forward pass")
    if not isinstance(chosen, ModelAdapter):
        if say is not None:
            say(f"model: {chosen!r}")
        chosen = structure(chosen, ModelChoice, registry=registry).build(registry=registry)
    adapter: ModelAdapter = chosen.to(several[0].device)
    return ReplacementModel(several, adapter)
