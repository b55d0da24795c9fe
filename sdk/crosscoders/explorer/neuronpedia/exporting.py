"""Writing the latents of a crosscoder for Neuronpedia, from a study's tokens."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import torch

from ...errors import AnalysisError, listed, shown
from ...files import whole_folder
from ..choosing import LatentDetail
from ..gathering import Gatherer
from ..records import LatentRecord
from .checking import neuronpedia_problems
from .files import Facts, Layout, batch_size, takes, write_batch, write_heads
from .listing import NeuronpediaListing
from .rows import Described
from .sources import Source, layer_number, sources_of

if TYPE_CHECKING:
    from ...analysis.study import Study


def export_features(
    study: Study,
    folder: str | Path,
    listing: NeuronpediaListing,
    *,
    layout: Layout = "neuronpedia",
    latents: Sequence[int] | None = None,
    detail: LatentDetail | None = None,
    vectors: bool = False,
) -> Path:
    """Write all latents of a study's crosscoder, or `latents` only, into a new folder for Neuronpedia; returns it.

    `layout` is `neuronpedia` (its bulk layout, `v1/{model}/{source}/...`), `api` (bodies for its API, in which latents
    that are never active have no place), or `saedashboard` (`{source}/batch-N.json`, which its converter reads). There
    is one source for each layer that latents read, in which they have the numbers that graphs give them. Promoted and
    suppressed tokens are of the decoder row at the last written site with a way to the logits, which `hookName` and the
    notes of a source say; `vectors` adds that row. What is written is checked before it appears under its name.
    `AnalysisError` where names or rows are not what Neuronpedia takes, or `folder` is something else.
    """
    folder = Path(folder)
    check_target(folder, layout, listing)
    adapter = study.adapters[study.crosscoder.sites[0].model]
    layers = 1 + max(
        (layer_number(f"m/{point}") for point in adapter.points() if point.startswith("layers.")), default=0
    )
    sources = sources_of(study.crosscoder, adapter.points())
    with tempfile.TemporaryDirectory(prefix="crosscoders-") as work, whole_folder(folder) as partial:
        gatherer = Gatherer(study, latents, detail=detail, folder=Path(work))
        firings = gatherer.firings
        facts = Facts(layers=layers, prompts=firings.sequences, prompt_tokens=firings.length)
        writer = _Writer(layout, partial, sources, listing, facts)
        for described in _described(gatherer, sources, vectors=vectors):
            writer.add(described)
        writer.finish()
        problems = list(neuronpedia_problems(partial))
        if problems:
            raise AnalysisError(f"what was to be written is not valid: {listed(problems)}")
    return folder


def check_target(folder: Path, layout: str, listing: NeuronpediaListing) -> None:
    """`AnalysisError` where the folder is there already, or the listing lacks what the layout needs."""
    if layout not in get_args(Layout):
        raise AnalysisError(f"layout should be one of {', '.join(get_args(Layout))}, not {shown(layout)}")
    if layout == "neuronpedia" and not (listing.creator_id and listing.creator_name):
        raise AnalysisError(
            "the bulk layout needs creator_id, the id of a user of the site that imports it, and creator_name"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise AnalysisError(f"{folder} is there already; name a new folder")


class _Writer:
    """Collects the latents of each source into batches; in memory are those of the batches that are not full."""

    def __init__(
        self, layout: Layout, folder: Path, sources: Sequence[Source], listing: NeuronpediaListing, facts: Facts
    ) -> None:
        self.layout, self.folder, self.listing, self.facts = layout, folder, listing, facts
        self._source = {latent: source for source in sources for latent in source.latents}
        self._waiting: dict[Source, list[Described]] = {}
        self._written: dict[Source, int] = {}
        self._takes = takes(layout)

    def add(self, latent: Described) -> None:
        source = self._source[latent.record.latent]
        if not self._takes(latent):
            return
        if source not in self._waiting:
            notes = source.notes
            if latent.site:
                notes += (
                    " Promoted and suppressed tokens are of the decoder row at the last site that has a way to the "
                    f"logits, {latent.site}; hookName says it for each."
                )
            write_heads(self.layout, self.folder, source, self.listing, self.facts, notes)
        waiting = self._waiting.setdefault(source, [])
        waiting.append(latent)
        if len(waiting) == batch_size(self.layout):
            self._write(source)

    def finish(self) -> None:
        for source, waiting in self._waiting.items():
            if waiting:
                self._write(source)
        if not self._written:
            raise AnalysisError("none of the latents is active on the study's tokens, so there is nothing to write")

    def _write(self, source: Source) -> None:
        number = self._written.get(source, 0)
        write_batch(self.layout, self.folder, source, self._waiting[source], number, self.listing, self.facts)
        self._written[source], self._waiting[source] = number + 1, []


def _described(gatherer: Gatherer, sources: Sequence[Source], *, vectors: bool) -> Iterator[Described]:
    """The latents that are asked for, with their numbers in their sources."""
    place = {latent: (source, index) for source in sources for index, latent in enumerate(source.latents)}
    study = gatherer.study

    def near(record: LatentRecord) -> list[tuple[int, float]]:
        mine = place[record.latent][0]
        return [(place[j][1], cosine) for j, cosine in record.nearest if place[j][0] is mine]

    for chunk in study.watch(list(gatherer.chunks), "writing latents"):
        for record in gatherer.records(chunk):
            vector: Sequence[float] = ()
            if vectors and record.logits:
                with torch.no_grad():
                    vector = study.crosscoder.direction([record.latent], record.logits[-1].site)[0].float().tolist()
            yield Described(
                record=record,
                index=place[record.latent][1],
                num_tokens=gatherer.firings.num_tokens,
                texts=gatherer.vocabulary.texts,
                nearest=near(record),
                vector=vector,
                explanation=study.explanations.get(record.latent, ""),
            )
