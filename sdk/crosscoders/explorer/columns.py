"""The columns of a dashboard's table: what every crosscoder has, and what analyses add."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np

from ..crosscoder.module import Crosscoder
from .data_folder import Column, class_column
from .fields import field_of
from .firings import Firings
from .results import Results


def columns_of(
    crosscoder: Crosscoder, firings: Firings, norms_FS: np.ndarray, results: Results, latents: Sequence[int]
) -> list[Column]:
    """All columns, each with the rows of `latents` only; `norms_FS` are of sites that compare."""
    own = [*_activity(firings), *_norms(crosscoder, norms_FS)]
    known = {column.key for column in own}
    for measured in results.measured.values():
        column = measured.column()
        if column is not None and column.key not in known:
            own.append(column)
            known.add(column.key)
    return [attrs.evolve(column, values=column.values[list(latents)]) for column in own]


def _activity(firings: Firings) -> list[Column]:
    count_F = firings.count_F.astype(float)
    mean_F = np.divide(firings.sum_F, count_F, out=np.full(len(count_F), np.nan), where=count_F > 0)
    values = {
        "density": count_F / firings.num_tokens,
        "firings": count_F,
        "max": np.where(count_F > 0, firings.max_F, np.nan),
        "mean_active": mean_F,
    }
    return [_column(name, value) for name, value in values.items()]


def _norms(crosscoder: Crosscoder, norms_FS: np.ndarray) -> list[Column]:
    """By model, site and group."""
    written = crosscoder.written
    models = list(written.points_by_model)
    columns = []
    mean_MF = [norms_FS[:, [site.model == model for site in written.sites]].mean(axis=1) for model in models]
    total_F = np.sum(mean_MF, axis=0)
    for model, mine_F in zip(models, mean_MF, strict=True) if len(models) > 1 else ():
        share_F = np.divide(mine_F, total_F, out=np.full(len(total_F), np.nan), where=total_F > 0)
        columns.append(_column("norm_share", share_F, model))
    if len(models) == 2:
        columns.append(_column("tuned_share", columns[-1].values))
    if len(written.sites) > 1:
        names = [written.names[s] if total else None for s, total in zip(norms_FS.argmax(axis=1), total_F, strict=True)]
        columns.append(_classes("top_site", names))
    if len(crosscoder.wiring.groups) > 1:
        groups = [group.name for group in crosscoder.wiring.groups for _ in range(group.num_latents)]
        columns.append(_classes("group", groups))
    return columns


def _column(name: str, values: np.ndarray, place: str = "") -> Column:
    told, key = field_of(name, place), f"{name}_{place}" if place else name
    return Column(key=key, title=told.title, help=told.help, values=values, kind=told.kind, scale=told.scale)


def _classes(name: str, names: Sequence[str | None]) -> Column:
    told = field_of(name)
    return class_column(name, told.title, told.help, names)
