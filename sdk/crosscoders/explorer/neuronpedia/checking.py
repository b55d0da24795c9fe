"""A folder for Neuronpedia looked through without a network: every line of every file, and what lines say of others.

The importer takes columns from the first line of a file alone, skips what comes twice without a word, and refuses rows
of latents that it does not have. Each of these is found here, with its file, line and field.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import zlib
from array import array
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import AnalysisError, listed, shown
from ...reading import parse_json, read_json
from .rules import batch_problems, body_problems, row_problems

HEADS = ("release", "model", "sourceset", "source")
TABLES = ("features", "activations", "explanations")
LONGEST_LINE = 2**26
"""Bytes of a line, beyond which a file is not read: 64 MB."""
_NUMBERED = re.compile(r"batch-(\d+)\.jsonl\.gz")


def check_neuronpedia(folder: str | Path) -> None:
    """`AnalysisError` with the first few of all that is wrong with a folder; see `neuronpedia_problems`."""
    problems = list(neuronpedia_problems(folder))
    if problems:
        raise AnalysisError(f"{folder} is not valid: {listed(problems)}")


def neuronpedia_problems(folder: str | Path) -> Iterator[str]:
    """What Neuronpedia, or its converter, would refuse, skip or not show, of what `export_features` writes.

    Sources of a bulk layout are found by their `release.jsonl`, bodies of the API and batches of SAEDashboard by their
    names. A folder with none of these is a problem too.
    """
    folder = Path(folder)
    heads = sorted({path.parent for name in HEADS for path in folder.rglob(f"{name}.jsonl")})
    for source in heads:
        for problem in _source_problems(source):
            yield problem.replace(f"{folder}{os.sep}", "")
    others: list[tuple[str, Callable[[Any, str], list[str]]]] = [
        ("new-model.json", lambda body, place: body_problems("new-model", body, place)),
        ("new-source-set.json", lambda body, place: body_problems("new-source-set", body, place)),
        ("upload-batch-*.json", lambda body, place: body_problems("upload-batch", body, place)),
        ("batch-*.json", batch_problems),
    ]
    seen = bool(heads)
    for pattern, rules in others:
        for path in sorted(folder.rglob(pattern)):
            seen = True
            try:
                yield from rules(read_json(path, AnalysisError), str(path.relative_to(folder)))
            except AnalysisError as error:
                yield str(error)
    if not seen:
        yield f"{folder} has no sources (release.jsonl), bodies (upload-batch-0.json) or batches (batch-0.json)"


def _source_problems(source: Path) -> Iterator[str]:
    """One folder `{model}/{source}`."""
    rows: dict[str, Mapping[str, Any]] = {}
    for name in HEADS:
        path = source / f"{name}.jsonl"
        if not path.is_file():
            yield f"{path} is missing"
            continue
        found: list[tuple[int, Mapping[str, Any]]] = []
        yield from _lines(path, name, found)
        if len(found) == 1:
            rows[name] = found[0][1]
        elif found:
            yield f"{path} has {len(found)} lines, and should have one"
    names = {
        "modelId": (rows.get("model", {}).get("id"), "model.jsonl"),
        "setName": (rows.get("sourceset", {}).get("name"), "sourceset.jsonl"),
        "releaseName": (rows.get("release", {}).get("name"), "release.jsonl"),
        "layer": (rows.get("source", {}).get("id"), "source.jsonl"),
    }
    for key, place in (("modelId", source.parent.name), ("layer", source.name)):
        if names[key][0] not in (None, place):
            yield f"{source / names[key][1]} is of {shown(names[key][0])}, but its folder is called {shown(place)}"
    for name, row in rows.items():
        yield from _named(row, names, str(source / f"{name}.jsonl"))
    present = _Present()
    for table in TABLES:
        paths = _batches(source / table)
        if table == "features" and not paths:
            yield f"{source / table} has no batch-0.jsonl.gz"
        for number, path in enumerate(paths):
            if path.name != f"batch-{number}.jsonl.gz":
                yield f"{path} should be batch-{number}.jsonl.gz: batches are numbered without a gap"
            yield from _table_problems(path, table, names, present)
    for table in ("activations", "explanations"):
        yield from present.twice(table, _batches(source / table))


def _table_problems(path: Path, table: str, names: Mapping[str, tuple[Any, str]], present: _Present) -> Iterator[str]:
    keys: list[str] = []
    rows: list[tuple[int, Mapping[str, Any]]] = []
    for problem in _lines(path, table, rows):
        present.all_read &= table != "features"
        yield problem
    for number, row in rows:
        place = f"{path} line {number}"
        if not keys:
            keys = sorted(row)
        elif sorted(row) != keys:
            other = sorted(set(row) ^ set(keys))
            yield f"{place} has other keys than the first line, whose keys alone are read: {', '.join(other)}"
        yield from _named(row, names, place)
        yield from present.row(table, row, place)


class _Present:
    """Which latents a source has, and the ids of its activations and explanations."""

    def __init__(self) -> None:
        self.latents: set[int] = set()
        self.all_read = True
        """Whether all lines of features could be read: otherwise more latents may be there than these."""
        self.ids = {"activations": array("q"), "explanations": array("q")}

    def row(self, table: str, row: Mapping[str, Any], place: str) -> Iterator[str]:
        latent = int(row["index"])
        if table == "features":
            if latent in self.latents:
                yield f"{place}.index {latent} comes twice; the second is skipped"
            self.latents.add(latent)
            return
        self.ids[table].append(hash(row["id"]))
        if self.all_read and latent not in self.latents:
            yield f"{place}.index {latent} is not among the source's features"

    def twice(self, table: str, paths: list[Path]) -> Iterator[str]:
        """Ids that come twice; the files are read again only where there are any."""
        found, counts = np.unique(np.frombuffer(self.ids[table], np.int64), return_counts=True)
        wanted = set(found[counts > 1].tolist())
        first: dict[str, str] = {}
        for path in paths if wanted else ():
            rows: list[tuple[int, Mapping[str, Any]]] = []
            list(_lines(path, table, rows))
            for number, row in rows:
                name, place = row["id"], f"{path} line {number}"
                if hash(name) in wanted and first.setdefault(name, place) != place:
                    yield f"{place}.id {shown(name)} is that of {first[name]} too; the second is skipped"


def _named(row: Mapping[str, Any], names: Mapping[str, tuple[Any, str]], place: str) -> Iterator[str]:
    """What a row calls its model, set, release and source is what their own files call them."""
    for key, other in (("sourceSetName", "setName"), *((key, key) for key in names)):
        expected, where = names[other]
        if row.get(key) is not None and expected is not None and row[key] != expected:
            yield f"{place}.{key} is {shown(row[key])}, but {where} has {shown(expected)}"


def _batches(folder: Path) -> list[Path]:
    paths = [path for path in folder.glob("*") if _NUMBERED.fullmatch(path.name)]
    return sorted(paths, key=lambda path: int(_NUMBERED.fullmatch(path.name)[1]))  # type: ignore[index]


def _lines(path: Path, kind: str, good: list[tuple[int, Mapping[str, Any]]]) -> Iterator[str]:
    """The problems of a file's lines one by one; lines without any go to `good`, with their numbers."""
    opener = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opener(path, "rb") as file:
            while line := file.readline(LONGEST_LINE):
                number += 1
                place = f"{path} line {number}"
                if len(line) == LONGEST_LINE:
                    yield f"{place} is longer than {LONGEST_LINE // 2**20} MB"
                    return
                try:
                    row = parse_json(line, place, AnalysisError)
                except AnalysisError as error:
                    yield str(error)
                    continue
                problems = row_problems(kind, row, place)
                yield from problems
                if not problems:
                    good.append((number, row))
    except (OSError, EOFError, zlib.error) as error:
        yield f"{path} cannot be read: {getattr(error, 'strerror', None) or error}"
    if not number:
        yield f"{path} is empty"


def json_line(row: Mapping[str, Any]) -> bytes:
    """A row as a line of a file."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"
