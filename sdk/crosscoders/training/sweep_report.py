"""What a sweep found: its crosscoders in a table, and which of them no other beats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

from ..crosscoder.module import Crosscoder
from ..reports import Figure, Part, Report, Table
from ..reports.figures import curves

Values = Mapping[str, Sequence[Any]]
"""The swept values by dotted key."""

TERMS = {
    "front": "The crosscoders that no other of the sweep beats: none explains as much with fewer latents active, or "
    "with fewer operations (Pareto).",
    "operations": "Of the matrix products of one training step, for each token; a multiplication with an addition "
    "counts as two.",
}


def sweep_rows(found: Mapping[Path, Crosscoder], values: Values) -> list[dict[str, Any]]:
    """Of each crosscoder its folder, the swept values, its metrics, its latents and operations, and which fronts it is
    on.

    On a front is what no other crosscoder equals or beats in both numbers and beats in one: mean explained variance
    over sites, and `l0` or `operations`.
    """
    rows: list[dict[str, Any]] = []
    for (folder, crosscoder), chosen in zip(found.items(), product(*values.values()), strict=True):
        metrics = dict(crosscoder.info.metrics) if crosscoder.info else {}
        rows.append(
            {
                "folder": folder.name,
                "values": dict(zip(values, chosen, strict=True)),
                "num_latents": crosscoder.num_latents,
                "operations": crosscoder.wiring.training_flops_per_token(metrics.get("l0")),
                "mean_explained_variance": mean_explained_variance(metrics),
                "metrics": metrics,
            }
        )
    for row in rows:
        row["front"] = {cost: _unbeaten(row, rows, cost) for cost in ("l0", "operations")}
    return rows


def mean_explained_variance(metrics: Mapping[str, Any]) -> float | None:
    """The mean over the sites where recorded metrics have it; None where none has."""
    explained = [value for value in metrics.get("explained_variance", {}).values() if value is not None]
    return mean(explained) if explained else None


def sweep_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows of a sweep as lines: swept values, explained variance at each site, L0, silent latents."""
    sites = list(dict.fromkeys(site for row in rows for site in row["metrics"]["explained_variance"]))
    cells = [[*rows[0]["values"], *(f"EV {site}" for site in sites), "L0", "silent", "folder"]]
    for row in rows:
        explained = (row["metrics"]["explained_variance"].get(site) for site in sites)
        cells.append(
            [
                *(str(value) for value in row["values"].values()),
                *("–" if value is None else f"{value:.4f}" for value in explained),
                f"{row['metrics']['l0']:.2f}",
                f"{row['metrics']['silent_share']:.1%}",
                row["folder"],
            ]
        )
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def sweep_report(rows: Sequence[Mapping[str, Any]]) -> Report:
    """Rows of a sweep as a report: explained variance against L0 and against operations, and all numbers.

    Crosscoders that differ in nothing but numbers of the loss, such as `loss.k`, are one line.
    """
    keys = list(rows[0]["values"])
    moving = {key for key in keys if key.startswith("loss.") and all(_is_number(row["values"][key]) for row in rows)}
    drawn = [row for row in rows if row["mean_explained_variance"] is not None]
    parts: list[Part] = []
    for cost, label in (("l0", "L0"), ("operations", "operations per token")):
        lines: dict[str, list[tuple[float, float]]] = {}
        for row in drawn:
            name = ", ".join(_named(key, row["values"][key]) for key in keys if key not in moving) or "all"
            lines.setdefault(name, []).append((_cost(row, cost), row["mean_explained_variance"]))
        if lines:
            points = {
                name: ([x for x, _ in sorted(line)], [y for _, y in sorted(line)]) for name, line in lines.items()
            }
            drawing = curves(points, xlabel=label, ylabel="explained variance, mean over sites", log_x=True)
            parts.append(Figure(title=f"Explained variance by {label}", svg=drawing.svg()))
    columns = (*keys, "latents", "explained variance", "L0", "operations", "silent", "on the front of")
    table = Table(
        title="Crosscoders",
        columns=columns,
        rows=[
            (
                *(value if _is_number(value) else _named("", value) for value in row["values"].values()),
                row["num_latents"],
                row["mean_explained_variance"],
                row["metrics"]["l0"],
                row["operations"],
                row["metrics"]["silent_share"],
                " and ".join({"l0": "L0"}.get(cost, cost) for cost, on in row["front"].items() if on),
            )
            for row in rows
        ],
        note="Explained variance: mean over sites, on held-out text with the inference gate.",
    )
    best = "; ".join(
        ", ".join(_named(key, value) for key, value in row["values"].items()) for row in rows if row["front"]["l0"]
    )
    return Report(
        title="Sweep",
        summary=f"Of {len(rows)} crosscoders these explain most for the latents that they have active: {best}."
        if best
        else "No crosscoder has a defined explained variance.",
        parts=[*parts, table],
        data={"crosscoders": list(rows)},
        frame=table,
        terms=TERMS,
    )


def _cost(row: Mapping[str, Any], cost: str) -> float:
    return float(row["metrics"]["l0"] if cost == "l0" else row[cost])


def _unbeaten(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], cost: str) -> bool:
    """Whether no other row is at least as good in both numbers and better in one."""
    value = row["mean_explained_variance"]
    if value is None:
        return False
    others = [r for r in rows if r is not row and r["mean_explained_variance"] is not None]
    mine = (value, -_cost(row, cost))
    theirs = [(r["mean_explained_variance"], -_cost(r, cost)) for r in others]
    return not any(other != mine and other[0] >= mine[0] and other[1] >= mine[1] for other in theirs)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _named(key: str, value: Any) -> str:
    """A value as legends show it: a component by its name, with the options given beside it."""
    if isinstance(value, Mapping):
        options = [f"{name} {option}" for name, option in value.items() if name != "name"]
        return " ".join([str(value.get("name", key)), *options])
    return f"{key.rpartition('.')[2]} {value}".strip()
