"""Writing a dashboard: a folder of pages with every latent of a crosscoder, from a disk and without a server.

What is made stands in `FOLDER.unfinished` until it is whole, and a process that is killed leaves it for the next one to
go on from; an older dashboard at FOLDER stays until then.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from ..checkpoints.tensors import tensors_checksum, tensors_fingerprint
from ..errors import AnalysisError
from ..files import disk_errors, put_folder, write_whole
from ..plugins.choices import unstructure
from ..reading import checksum, read_json
from ..reports import Report
from ..training.lock import locked
from .choosing import LatentDetail
from .columns import columns_of
from .data_folder import CHUNK, FORMAT, DataFolder
from .facts import cards_of, models_of, sites_of
from .gathering import Gatherer
from .graphs import GraphPage, graph_pages
from .records import LatentRecord
from .results import Results
from .shell import write_shell
from .views import MOST_LINES, diff_view, layers_view, snapshots_view

if TYPE_CHECKING:
    from ..analysis.study import Study

PROGRESS, WORK = "progress.json", "work"
PHRASES, PHRASE = 3, 4
"""Of so many examples, so many tokens up to the strongest are looked through by search."""
DULL = ("shared", "undecided")
"""Verdicts whose lines are left out first where there are too many."""


def write_dashboard(
    study: Study,
    folder: str | Path,
    *,
    latents: Sequence[int] | None = None,
    results: Sequence[Report | str | Path] = (),
    graphs: Sequence[str | Path] = (),
    title: str = "",
    detail: LatentDetail | None = None,
    resume: bool = True,
) -> Path:
    """Write a dashboard of a crosscoder over a study's tokens into `folder`, and return its page, `index.html`.

    It shows all latents, or `latents` only; `results` are reports, or folders or JSON files of them, whose numbers
    become columns and facts; `graphs` folders that `save_graph` wrote, whose pages are linked, and link back to their
    latents where they are of this crosscoder. The tokens are read twice at most; beside what the study keeps, memory
    holds what 256 latents need. A run that was stopped goes on with the same call and ends with the same files;
    `resume=False` begins anew, for a token source of your own that gives other text by now.
    `AnalysisError` where `folder` is something else, or a report is of another crosscoder; `DiskError` where the disk
    does not take it.
    """
    folder = Path(folder).absolute()
    check_target(folder)
    found = Results.read(results, study.crosscoder.num_latents)
    found.explanations = {**study.explanations, **found.explanations}
    pages = graph_pages(graphs)
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    title = title or f"Crosscoder over {', '.join(study.crosscoder.layout.names)}"
    with locked(unfinished):
        gatherer = Gatherer(study, latents, detail=detail, folder=unfinished / WORK)
        made = _begin(unfinished, _identity(study, gatherer, found, pages, title), resume=resume)
        _Writer(study, gatherer, found, pages, unfinished, title, made).write()
    with disk_errors(folder):
        put_folder(unfinished, folder)
    return folder / "index.html"


def check_target(folder: Path) -> None:
    """`AnalysisError` where the folder holds something else than a dashboard."""
    if folder.exists() and not folder.is_dir():
        raise AnalysisError(f"{folder} is a file; name a folder for the dashboard")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "data" / "facts.js").is_file():
        raise AnalysisError(f"{folder} holds something else than a dashboard; name a new folder")


@attrs.define(eq=False)
class _Writer:
    study: Study
    gatherer: Gatherer
    results: Results
    graphs: Sequence[GraphPage]
    folder: Path
    title: str
    made: str

    def write(self) -> None:
        """Everything that is not there yet; what only a later run needs is removed last."""
        data, gatherer = DataFolder(self.folder), self.gatherer
        self.study.doing = "reading"
        peaks, ids = list[str](), set[int]()
        for chunk in self.study.watch(list(gatherer.chunks), "writing latents"):
            side = self.folder / WORK / f"chunk-{chunk:04d}.json"
            if not (side.is_file() and data.chunk_path(chunk).is_file()):
                self._write_chunk(data, chunk, side)
            told = read_json(side, AnalysisError)
            peaks += told["peaks"]
            ids.update(told["ids"])
        firings = gatherer.firings
        files, per_file = data.write_corpus(firings.rows(), firings.length)
        ids.update(int(token) for token in np.unique(firings.ids_RT) if token >= 0)
        gatherer.vocabulary.add(sorted(ids))
        data.write_vocabulary({token: text for token, text in gatherer.vocabulary.all().items() if token in ids})
        shown, fingerprint = set(gatherer.latents), tensors_fingerprint(self.study.crosscoder.state_dict())
        data.write_search({j: text for j, text in self.results.labels().items() if j in shown}, peaks)
        columns = columns_of(self.study.crosscoder, firings, gatherer.scaled_norms_FS, self.results, gatherer.latents)
        data.write_columns(columns)
        facts = {
            "format": FORMAT,
            "title": self.title,
            "name": self.title,
            "made": self.made,
            "version": version("crosscoders"),
            "num_latents": self.study.crosscoder.num_latents,
            "chunk": CHUNK,
            "latents": None if len(shown) == self.study.crosscoder.num_latents else gatherer.latents,
            "num_tokens": firings.num_tokens,
            "sequences": firings.sequences,
            "corpus_files": files,
            "rows_per_file": per_file,
            "sites": sites_of(self.study),
            "models": models_of(self.study),
            "cards": cards_of(self.study, firings, self.results),
            "columns": [column.described() for column in columns],
            "intervals": gatherer.detail.intervals(),
            "views": self._write_views(data),
            "graphs": [page.linked(fingerprint, shown).write(self.folder / "graphs") for page in self.graphs],
        }
        data.write_facts(facts)
        write_shell(self.folder, title=self.title)
        with disk_errors(self.folder):
            shutil.rmtree(self.folder / WORK)
            (self.folder / PROGRESS).unlink()

    def _write_chunk(self, data: DataFolder, chunk: int, side: Path) -> None:
        records = [
            attrs.evolve(record, facts=self.results.facts(record.latent)) for record in self.gatherer.records(chunk)
        ]
        ids = {
            token
            for record in records
            for site in record.logits
            for token, _ in (*site.promoted, *site.suppressed)
        }  # fmt: skip
        told = {"peaks": [searched(record) for record in records], "ids": sorted(ids)}
        write_whole(side, json.dumps(told))
        data.write_chunk(chunk, records)

    def _write_views(self, data: DataFolder) -> list[str]:
        latents, results, views = self.gatherer.latents, self.results, list[str]()
        if results.lines:
            verdict = results.measured.get(("verdict", ""))
            told = [j for j in latents if j in results.lines]
            if verdict is not None and len(told) > MOST_LINES:
                told.sort(key=lambda j: str(verdict.values[j]).startswith(DULL))
            data.write("diff", diff_view({j: results.lines[j] for j in told}, results.note))
            views.append("diff")
        if len(self.study.crosscoder.written.sites) > 1:
            data.write("layers", layers_view(self.gatherer.scaled_norms_FS[latents]))
            views.append("layers")
        if results.snapshots is not None:
            content = _snapshots(results.snapshots, latents)
            if content is not None:
                data.write("snapshots", content)
                views.append("snapshots")
        return views


def searched(record: LatentRecord) -> str:
    """What search looks through: the tokens where the latent peaks, and a few words up to the strongest of them."""
    peaks = dict.fromkeys(example.tokens[example.peak].strip() for example in record.top)
    phrases = [
        "".join(example.tokens[max(0, example.peak - PHRASE) : example.peak + 1]).strip()
        for example in record.top[:PHRASES]
    ]
    return " ".join(part for part in dict.fromkeys([*peaks, *phrases]) if part)


def _snapshots(data: Any, latents: Sequence[int]) -> dict[str, Any] | None:
    """The curves of latents that come or go first; None where the report has other numbers of latents or steps."""
    kinds, steps = data.get("kind"), data.get("steps", [])
    norms_FS = np.array(data["norms"], float)
    if norms_FS.ndim != 2 or not isinstance(kinds, list) or norms_FS.shape != (len(kinds), len(steps)):
        return None
    order = {"emerging": 0, "fading": 1, "from the start": 2}
    chosen = sorted(latents, key=lambda j: (order.get(kinds[j], 3), -norms_FS[j].max()))
    return snapshots_view([f"step {step:g}" for step in steps], chosen, norms_FS[chosen], [kinds[j] for j in chosen])


def _identity(
    study: Study, gatherer: Gatherer, results: Results, graphs: Sequence[GraphPage], title: str
) -> dict[str, str]:
    """What a run that goes on must share with the one that began, as checksums: it is about files of the user."""
    crosscoder = study.crosscoder
    options = getattr(study.source, "config", None)
    state = {name: tensor.detach().cpu() for name, tensor in crosscoder.state_dict().items()}
    parts = {
        "version": [version("crosscoders"), FORMAT],
        "weights": [tensors_checksum(state), crosscoder.gate.name],
        "latents": [gatherer.latents, attrs.asdict(gatherer.detail)],
        "models": {key: adapter.describe() for key, adapter in study.adapters.items()},
        "tokens": [
            study.num_tokens, study.seed, study.split, unstructure(study.activations), type(study.source).__name__,
            unstructure(options) if attrs.has(type(options)) else None,
        ],
        "results": [results.summaries, [results.facts(j) for j in gatherer.latents]],
        "pages": [title, [[page.name, page.html] for page in graphs]],
    }  # fmt: skip
    return {name: checksum(json.loads(json.dumps(part, default=str))) for name, part in parts.items()}


def _begin(folder: Path, identity: dict[str, str], *, resume: bool) -> str:
    """Keep what an interrupted run of the same left, or remove it; the day that the dashboard was begun on."""
    path = folder / PROGRESS
    try:
        then = read_json(path, AnalysisError) if resume else None
    except (FileNotFoundError, AnalysisError):
        then = None
    if isinstance(then, dict) and then.get("identity") == identity and isinstance(then.get("made"), str):
        return str(then["made"])
    made = time.strftime("%Y-%m-%d")
    with disk_errors(folder):
        for each in folder.iterdir():
            if each.is_dir():
                shutil.rmtree(each)
            elif each.name != ".lock":
                each.unlink()
    write_whole(path, json.dumps({"identity": identity, "made": made}))
    return made
