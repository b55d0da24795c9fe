"""One set of weights for several models: a base, and the same base with an adapter in its layers.

A twin is a model of its own, with its own hooks and its own adapter, whose parameters are those of the other. So
nothing has to be switched on and off between the two, and they may even run at the same time.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from attrs import define
from torch import nn

from crosscoders.authoring import in_common

from .placement import has_offloaded

Weights = tuple[nn.Module, tuple[str, ...]]
"""A model, and what was done to make its files fit."""


@define(eq=False)
class _Known:
    """A model that was loaded for the models that are being built together."""

    weights: Weights
    is_taken: bool = False
    """Whether it is somebody's already, and not only what twins are made of."""


def shared(identity: str, load: Callable[[], Weights], *, whole: bool) -> Weights:
    """The model of this identity, with the weights that others of it have among those that are built together.

    `whole`: the model stays as it is; otherwise its modules are going to be changed, though never its parameters.
    """
    table = in_common()
    if table is None:
        return load()
    key = ("transformers", identity)
    if key not in table:
        table[key] = _Known(load())
    known: _Known = table[key]
    model, notes = known.weights
    if has_offloaded(model):
        del table[key]  # where its weights are while they are used is not for two models to say
        return known.weights
    if whole and not known.is_taken:
        known.is_taken = True
        return model, notes
    return twin(model), notes


def twin(model: nn.Module) -> nn.Module:
    """A copy of a model's modules around the very same parameters and buffers."""
    same: list[Any] = [*model.parameters(), *model.buffers()]
    # What bitsandbytes keeps of quantised weights outside of them, some of which moves there on first use.
    same += [state for each in same if (state := getattr(each, "quant_state", None)) is not None]
    same += [
        state for each in model.modules() if type(state := getattr(each, "state", None)).__name__ == "MatmulLtState"
    ]
    return deepcopy(model, {id(each): each for each in same})
