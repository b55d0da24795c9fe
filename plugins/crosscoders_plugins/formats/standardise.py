"""Means and stds of each column, folded into weights, so that raw activations go in and out."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from attrs import evolve, frozen
from torch import Tensor

from crosscoders import CheckpointError
from crosscoders.authoring import Blueprint, Vector, View


@frozen
class Columns:
    """Statistics of the columns of one slot: the library works on (x - mean) / std."""

    mean: Vector
    std: Vector


def standardised(blueprint: Blueprint, inputs: Mapping[str, Columns], outputs: Mapping[str, Columns]) -> Blueprint:
    """The blueprint over raw activations; `inputs` and `outputs` are the statistics at its read and written slots."""
    if not inputs and not outputs:
        return blueprint
    groups = [
        evolve(
            group,
            reads={slot: _scaled(rows, inputs.get(slot), into=True) for slot, rows in group.reads.items()},
            writes={slot: _scaled(rows, outputs.get(slot), into=False) for slot, rows in group.writes.items()},
        )
        for group in blueprint.groups
    ]
    biases: dict[str, tuple[Vector, ...]] = {}
    for slot, vectors in blueprint.decoder_bias.items():
        stats = outputs.get(slot)
        biases[slot] = (*(partial(_times, vector, stats.std) for vector in vectors), stats.mean) if stats else vectors
    skip = {}
    for (read, written), rows in blueprint.skip.items():
        before, after = inputs.get(read), outputs.get(written)
        assert isinstance(rows, View)
        folded = rows.scaled(
            rows=after.std if after else None, columns=partial(_inverse, before.std) if before else None
        )
        skip[read, written] = folded
        if before:
            biases[written] = (*biases[written], partial(_lost, folded, before.mean))
    return evolve(
        blueprint,
        groups=groups,
        decoder_bias=biases,
        skip=skip,
        subtract={slot: stats.mean for slot, stats in inputs.items()},
        ties=(),  # rows that were equal are multiplied by stds of different sites
        changes=(*blueprint.changes, "means and stds of columns were folded into the weights: raw activations go in"),
    )


def _scaled(rows: object, stats: Columns | None, *, into: bool) -> View:
    assert isinstance(rows, View)
    if stats is None:
        return rows
    return rows.scaled(columns=partial(_inverse, stats.std) if into else stats.std)


def _inverse(std: Vector) -> Tensor:
    value = std()
    if bool((value <= 0).any()):
        raise CheckpointError(f"{int((value <= 0).sum())} standard deviations of columns are 0 or less: it is damaged")
    return 1 / value


def _times(vector: Vector, std: Vector) -> Tensor:
    return vector() * std()


def _lost(rows: View, mean: Vector) -> Tensor:
    """What the skip map made of the mean."""
    return -(rows.load() @ mean())
