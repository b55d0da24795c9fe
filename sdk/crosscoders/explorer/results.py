"""What analyses found of latents, from their reports, for the columns and facts of a dashboard.

A report's data are walked: whatever has one entry for each latent becomes a column or a fact, whoever's analysis it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from attrs import define, field, frozen

from ..errors import AnalysisError
from ..reading import read_json
from ..reports import Report
from .data_folder import Column, class_column
from .fields import field_of
from .records import Fact

MOST_CLASSES = 32
"""Different texts up to which they are classes to filter by."""
NOT_OF_LATENTS = ("sites", "steps", "listed", "most_specific")
"""Lists of other things, which may be as long as there are latents."""
_OF_EVERY_LATENT = ("verdict", "class", "firings", "density")
ENOUGH_PRECISION, ENOUGH_RECALL = 0.25, 0.5
"""From which on a latent is named after a behaviour that it goes with."""


@frozen(eq=False)
class Measured:
    """One quantity of all latents."""

    name: str
    place: str
    """The site it is measured at, if one is said."""
    report: str
    values: Sequence[Any]
    interval: Sequence[Any] | None = None

    @property
    def is_text(self) -> bool:
        """Whether its entries are texts."""
        return any(isinstance(value, str) for value in self.values)

    @property
    def is_classes(self) -> bool:
        """Whether it is one of a few texts, or yes and no."""
        kinds = {value for value in self.values if value is not None}
        return (self.is_text and len(kinds) <= MOST_CLASSES) or kinds <= {True, False}

    def column(self) -> Column | None:
        """As a column; None of texts that differ from latent to latent."""
        told = field_of(self.name, self.place, report=self.report)
        name = self.name.partition(" (")[0]
        key = re.sub(r"[^A-Za-z0-9_./-]+", "_", f"{name}_{self.place}" if self.place else name).strip("_")
        if self.is_classes:
            return class_column(key, told.title, told.help, [_class_name(value) for value in self.values])
        if self.is_text:
            return None
        numbers = np.array([np.nan if value is None else float(value) for value in self.values])
        numbers[np.abs(numbers) > told.most] = np.nan
        kind = "number" if told.kind == "class" else told.kind
        return Column(key=key, title=told.title, help=told.help, values=numbers, kind=kind, scale=told.scale)

    def fact(self, latent: int) -> Fact | None:
        """What is known of one latent, with its interval; None where nothing is."""
        value = self.values[latent]
        if value is None or (isinstance(value, float) and np.isnan(value)):
            return None
        told = field_of(self.name, self.place, report=self.report)
        title = told.title
        if isinstance(value, str | bool):
            return title, _class_name(value)
        if abs(value) > told.most:
            return None
        limits = self.interval[latent] if self.interval is not None else None
        if limits is None or any(limit is None for limit in limits):
            return title, float(value)
        return title, f"{value:.3g} ({limits[0]:.3g} to {limits[1]:.3g})"


@define(eq=False)
class Results:
    """What several reports say of latents."""

    num_latents: int
    measured: dict[tuple[str, str], Measured] = field(factory=dict)
    """By name and place; what was said first counts."""
    lines: dict[int, str] = field(factory=dict)
    """The verdict on each latent in words."""
    note: str = ""
    """What a diff said of all latents together."""
    explanations: dict[int, str] = field(factory=dict)
    behaviours: dict[int, list[tuple[str, float, float]]] = field(factory=dict)
    """By latent: behaviours that it goes with, with recall and precision."""
    best: set[tuple[int, str]] = field(factory=set)
    """For each behaviour the latent that goes best with it."""
    snapshots: Mapping[str, Any] | None = None
    """The data of the analysis `snapshots`."""
    summaries: list[tuple[str, str]] = field(factory=list)
    """Title and summary of each report."""

    @classmethod
    def read(cls, given: Sequence[Report | str | Path], num_latents: int) -> Results:
        """From reports, or folders or JSON files of them; `AnalysisError` where one is of another crosscoder."""
        found = cls(num_latents)
        for one in given:
            for report in [one.to_json()] if isinstance(one, Report) else _read(Path(one)):
                found.add(report)
        return found

    def add(self, report: Mapping[str, Any]) -> None:
        """Take what a report says, as `Report.to_json` gives it."""
        title, data = str(report.get("title", "")), report.get("data", {})
        if not isinstance(data, Mapping):
            raise AnalysisError(f"the report '{title}' is malformed: its data are not a table")
        self.summaries.append((title, str(report.get("summary", ""))))
        for name in _OF_EVERY_LATENT:
            theirs = data.get(name)
            if isinstance(theirs, list) and len(theirs) != self.num_latents:
                raise AnalysisError(
                    f"the report '{title}' is of a crosscoder with {len(theirs)} latents, and this one has "
                    f"{self.num_latents}; give reports on this crosscoder"
                )
        sites = [site for site in data.get("sites", []) if isinstance(site, str)]
        leaves = dict(_leaves(data, self.num_latents))
        for path, values in leaves.items():
            if path[-1].endswith("_interval") or path[-1] in ("line", "reason"):
                continue
            interval = leaves.get((*path[:-1], f"{path[-1]}_interval")) or leaves.get(
                (f"{path[0]}_interval", *path[1:])
            )
            place = next((part for part in path if part in sites), "")
            name = "_".join(part for part in path if part not in (place, "against"))
            # A verdict that nothing changed need not be told twice.
            same = any(isinstance(values[0], str) and other.values == values for other in self.measured.values())
            if not (_are_pairs(values) or same):
                self.measured.setdefault((name, place), Measured(name, place, title, values, interval))
        self._add_lines(data, str(report.get("summary", "")))
        self._add_explained(data.get("latents"))
        self._add_behaviours(data)
        if "steps" in data and isinstance(data.get("norms"), list):
            self.snapshots = data

    def facts(self, latent: int) -> list[Fact]:
        """The facts of one latent: its verdict in words and its explanation first."""
        found: list[Fact] = []
        if latent in self.lines:
            found.append(("verdict", self.lines[latent]))
        if latent in self.explanations:
            found.append(("explanation", self.explanations[latent]))
        for name, recall, precision in self.behaviours.get(latent, ()):
            text = f"active at {recall:.0%} of its places; {precision:.0%} of the latent's activation is there"
            found.append((f"Behaviour: {name}", text))
        known = [each.fact(latent) for each in self.measured.values()]
        return [*found, *(fact for fact in known if fact is not None)]

    def labels(self) -> dict[int, str]:
        """What latents are called: explanations, and the behaviours that they go with or go best with."""
        found = dict(self.explanations)
        for latent, behaviours in self.behaviours.items():
            names = [
                name
                for name, recall, precision in behaviours
                if (latent, name) in self.best or (recall >= ENOUGH_RECALL and precision >= ENOUGH_PRECISION)
            ]
            if names:
                found[latent] = "; ".join(filter(None, [", ".join(names), self.explanations.get(latent)]))
        return found

    def _add_lines(self, data: Mapping[str, Any], summary: str) -> None:
        verdicts, lines, reasons = (data.get(name) for name in ("verdict", "line", "reason"))
        if isinstance(lines, list) and len(lines) == self.num_latents:
            self.lines.update({j: line for j, line in enumerate(lines) if isinstance(line, str)})
            self.note = summary
        elif isinstance(reasons, list) and isinstance(verdicts, list) and len(reasons) == self.num_latents:
            for j, (verdict, reason) in enumerate(zip(verdicts, reasons, strict=True)):
                self.lines.setdefault(j, f"{verdict}: {reason}" if reason else str(verdict))
            self.note = self.note or summary

    def _add_explained(self, latents: Any) -> None:
        """What automatic interpretation wrote: `{"12": {"explanation": ..., "detection": {...}}}`."""
        if not isinstance(latents, Mapping) or not latents or not all(key.isdigit() for key in latents):
            return
        scores: dict[str, list[float | None]] = {}
        for key, entry in latents.items():
            latent = int(key)
            if latent >= self.num_latents or not isinstance(entry, Mapping):
                raise AnalysisError(f"an explanation is of a latent '{key}', which this crosscoder does not have")
            if isinstance(entry.get("explanation"), str) and entry["explanation"]:
                self.explanations[latent] = entry["explanation"]
            for kind in ("detection", "fuzzing"):
                score = entry.get(kind)
                value = score.get("balanced_accuracy") if isinstance(score, Mapping) else None
                if isinstance(value, int | float):
                    scores.setdefault(kind, [None] * self.num_latents)[latent] = value
        for kind, values in scores.items():
            self.measured.setdefault((kind, ""), Measured(kind, "", "Automatic interpretation", values))

    def _add_behaviours(self, data: Mapping[str, Any]) -> None:
        """What the analysis `behaviours` found: for each behaviour its latents, with recall and precision."""
        tables = [data.get(name) for name in ("latents", "recall", "precision")]
        if not all(isinstance(table, Mapping) for table in tables) or "matches" not in data:
            return
        latents, recall, precision = (dict(table) for table in tables if isinstance(table, Mapping))
        for name in latents:
            self.best |= {(latent, name) for latent in latents[name][:1]}
            for latent, *numbers in zip(latents[name], recall[name], precision[name], strict=True):
                if latent < self.num_latents:
                    self.behaviours.setdefault(latent, []).append((name, numbers[0], numbers[1]))


def _read(path: Path) -> list[Mapping[str, Any]]:
    """The reports in a folder or file; explanations alone count as one."""
    file = path / "report.json" if path.is_dir() else path
    try:
        content = read_json(file, AnalysisError)
    except FileNotFoundError as problem:
        what = f"the folder {path} has no report.json" if path.is_dir() else f"there is no file {path}"
        raise AnalysisError(f"{what}; give a folder that `analyse` wrote, or a report.json") from problem
    reports = content if isinstance(content, list) else [content]
    if not all(isinstance(report, Mapping) for report in reports):
        raise AnalysisError(f"{file} is not the report.json of an analysis: it is not a list of tables")
    return [report if "data" in report else {"title": "", "data": report} for report in reports]


def _leaves(
    data: Mapping[str, Any], num_latents: int, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], list[Any]]]:
    """Lists with an entry for each latent, by where they are."""
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, num_latents, (*path, str(key)))
        elif isinstance(value, list) and len(value) == num_latents and key not in NOT_OF_LATENTS:
            plain = all(each is None or isinstance(each, str | int | float | bool) for each in value)
            if (plain or _are_pairs(value)) and any(each is not None for each in value):
                yield (*path, str(key)), value


def _are_pairs(values: Sequence[Any]) -> bool:
    return all(isinstance(each, list) and len(each) == 2 for each in values)


def _class_name(value: Any) -> str | None:
    return None if value is None else ("yes" if value else "no") if isinstance(value, bool) else str(value)
