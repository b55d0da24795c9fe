"""Top activating examples of chosen latents, from one pass over a study's tokens."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from attrs import field, frozen
from torch import Tensor

from ..models.capabilities import token_texts
from ..reports import Context

if TYPE_CHECKING:
    from .study import Study


@frozen(order=True)
class _Hit:
    peak: float
    sequence: int
    ids: tuple[int, ...] = field(order=False)
    activations: tuple[float, ...] = field(order=False)


@frozen(eq=False)
class Activity:
    """What one pass over the tokens says about every latent, with examples of the chosen ones."""

    firings_F: Tensor
    """The number of tokens on which each latent is active."""
    max_F: Tensor
    """The largest activation of each latent."""
    num_tokens: int
    contexts: dict[int, tuple[Context, ...]]
    """The contexts of each chosen latent, strongest first, with at most one context from each sequence."""


def activity(study: Study, chosen: Sequence[int], *, per_latent: int = 8, before: int = 16, after: int = 8) -> Activity:
    """Count the firings of all latents, and collect the `per_latent` strongest contexts of the chosen ones, in one
    pass.

    A context is the strongest token of its sequence with `before` and `after` tokens around it.
    """
    crosscoder = study.crosscoder
    firings_F = torch.zeros(crosscoder.num_latents, dtype=torch.int64, device=crosscoder.device)
    max_F = torch.zeros(crosscoder.num_latents, device=crosscoder.device)
    is_chosen_F = torch.zeros(crosscoder.num_latents, dtype=torch.bool, device=crosscoder.device)
    is_chosen_F[torch.tensor(list(chosen), dtype=torch.int64)] = True
    best: dict[int, list[_Hit]] = defaultdict(list)
    num_tokens = 0
    for batch in study.batches():
        latents = batch.latents
        num_tokens += latents.num_tokens
        firings_F += torch.bincount(latents.latent_N, minlength=crosscoder.num_latents)
        max_F.scatter_reduce_(0, latents.latent_N, latents.value_N, "amax")
        place_B2 = batch.place_B2
        picked = latents.select(is_chosen_F[latents.latent_N])
        for latent, row, columns, values in _by_latent_and_row(
            picked.latent_N, place_B2[picked.token_N], picked.value_N
        ):
            peak = max(values)
            hits = best[latent]
            if len(hits) == per_latent and peak <= hits[0].peak:
                continue
            centre = columns[values.index(peak)]
            length = int(batch.tokens.attention[row].sum())
            start, stop = max(0, centre - before), min(length, centre + after + 1)
            at = dict(zip(columns, values, strict=True))
            hit = _Hit(
                peak,
                batch.first_sequence + row,
                tuple(batch.tokens.ids[row, start:stop].tolist()),
                tuple(at.get(position, 0.0) for position in range(start, stop)),
            )
            (heapq.heappush if len(hits) < per_latent else heapq.heapreplace)(hits, hit)
    contexts = {
        latent: tuple(
            Context(tokens=token_texts(study.reading, hit.ids), activations=hit.activations)
            for hit in sorted(best[latent], reverse=True)
        )
        for latent in chosen
    }
    return Activity(firings_F.cpu(), max_F.cpu(), num_tokens, contexts)


def _by_latent_and_row(
    latent_N: Tensor, place_N2: Tensor, value_N: Tensor
) -> list[tuple[int, int, list[int], list[float]]]:
    """Group activations by latent and row: yields (latent, row, positions, values)."""
    groups: dict[tuple[int, int], tuple[list[int], list[float]]] = {}
    for latent, (row, column), value in zip(latent_N.tolist(), place_N2.tolist(), value_N.tolist(), strict=True):
        columns, values = groups.setdefault((latent, row), ([], []))
        columns.append(column)
        values.append(value)
    return [(latent, row, columns, values) for (latent, row), (columns, values) in groups.items()]
