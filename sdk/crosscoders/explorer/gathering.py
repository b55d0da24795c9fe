"""Records of latents, made chunk by chunk from two passes over a study's tokens."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..analysis.logits import logit_extremes
from ..crosscoder.latents import known_latents
from ..errors import AnalysisError
from .choosing import CANDIDATES, LatentDetail, bin_of, parts, strongest
from .data_folder import CHUNK
from .firings import Firings, chunks_of, collect
from .neighbours import Together, nearest_rows
from .records import ExampleRecord, Extremes, Histogram, Interval, LatentRecord
from .vocabulary import Vocabulary
from .windows import ModelShares, Windows, joined, measure_shares, values_in

if TYPE_CHECKING:
    from ..analysis.study import Study

LATENTS_OF_LOGITS = 64
"""Latents whose effects on a whole vocabulary are held at once."""
MOST_LOGIT_SITES = 4
"""Sites of one model up to which promoted tokens are shown of all; of more, those of the last one."""

Fired = tuple[np.ndarray, np.ndarray]
"""All places of a latent, increasing, and its activations there."""


def gather(
    study: Study, latents: Sequence[int] | None = None, *, detail: LatentDetail | None = None
) -> Iterator[LatentRecord]:
    """Everything that an explorer shows of each latent, in increasing order; of all where none are named.

    Two passes over the study's tokens, the first of which fills files of a temporary folder; memory holds the firings
    of 256 latents at a time. `AnalysisError` where no token counts, `LatentError` for a latent that is not there.
    """
    with tempfile.TemporaryDirectory(prefix="crosscoders-") as folder:
        gatherer = Gatherer(study, latents, detail=detail, folder=Path(folder))
        for chunk in gatherer.chunks:
            yield from gatherer.records(chunk)


class Gatherer:
    """What `gather` does, with files in `folder` that a later process goes on from."""

    def __init__(
        self, study: Study, latents: Sequence[int] | None = None, *, detail: LatentDetail | None = None, folder: Path
    ) -> None:
        num_latents = study.crosscoder.num_latents
        self.latents = sorted(set(known_latents(range(num_latents) if latents is None else latents, num_latents)))
        if not self.latents:
            raise AnalysisError("no latents are named; leave latents out for all of them")
        self.study, self.folder = study, folder
        self.detail = detail or LatentDetail.for_count(len(self.latents))
        self.chunks = chunks_of(self.latents)

    @cached_property
    def firings(self) -> Firings:
        """The first pass."""
        chosen_F = np.zeros(self.study.crosscoder.num_latents, bool)
        chosen_F[self.latents] = True
        return collect(self.study, self.folder / "firings", chosen_F)

    @cached_property
    def shares(self) -> ModelShares | None:
        """The second pass, where latents read more than one model."""
        crosscoder, detail = self.study.crosscoder, self.detail
        if len(crosscoder.wiring.read.points_by_model) < 2 or not detail.shares:
            return None
        latent_I, place_I = [], []
        for chunk, latents in self.chunks.items():
            fired = self._fired(chunk)
            for latent in latents:
                places = self._top(fired(latent))[: detail.shares]
                latent_I.append(np.full(len(places), latent))
                place_I.append(places)
        latent_K, place_K = joined(latent_I), joined(place_I)
        return measure_shares(self.study, self.firings, latent_K, place_K, detail, self.folder)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The texts of all tokens that are shown."""
        return Vocabulary(self.study)

    def records(self, chunk: int) -> list[LatentRecord]:
        """The latents of one chunk that are asked for."""
        latents, fired = self.chunks[chunk], self._fired(chunk)
        crosscoder, count = self.study.crosscoder, self.detail.neighbours
        nearest = nearest_rows(crosscoder, latents, count) if count else [[] for _ in latents]
        norms = self.raw_norms_FS[latents].tolist()
        logits = self._logits(latents)
        return [
            self._record(latent, fired(latent), logits.get(latent, []), row, near)
            for latent, row, near in zip(latents, norms, nearest, strict=True)
        ]

    @cached_property
    def raw_norms_FS(self) -> np.ndarray:
        """‖d^s‖ of every latent at every written site, in the model's own units."""
        crosscoder = self.study.crosscoder
        scale_S = torch.stack([crosscoder.normaliser.scale_of(name) for name in crosscoder.written.names])
        with torch.no_grad():
            found: np.ndarray = (crosscoder.decoder_norms() / scale_S).float().cpu().numpy()
        return found

    @cached_property
    def scaled_norms_FS(self) -> np.ndarray:
        """The same in normalised space and by the root of the width, so that sites compare."""
        written = self.study.crosscoder.written
        width_S = torch.tensor([float(site.width) for site in written.sites]).sqrt()
        with torch.no_grad():
            found: np.ndarray = (self.study.crosscoder.decoder_norms().float().cpu() / width_S).numpy()
        return found

    def _fired(self, chunk: int) -> Callable[[int], Fired]:
        found = self.firings.of_chunk(chunk)
        edges = np.searchsorted(found["latent"], np.arange(CHUNK * chunk, CHUNK * (chunk + 1) + 1))

        def of(latent: int) -> Fired:
            mine = found[edges[latent - CHUNK * chunk] : edges[latent - CHUNK * chunk + 1]]
            return mine["place"].astype(np.int64), mine["value"]

        return of

    def _top(self, fired: Fired) -> np.ndarray:
        """The strongest places of different sequences, those apart that have the same tokens around them."""
        count = self.detail.top
        place_K = strongest(*fired, self.firings.length, CANDIDATES * count)
        windows, seen = Windows.around(place_K, self.firings, self.detail), dict[bytes, int]()
        for k, window in enumerate(zip(windows.sequence_K, windows.start_K, windows.stop_K, strict=True)):
            sequence, start, stop = window
            seen.setdefault(self.firings.ids_RT[sequence, start:stop].tobytes(), k)
            if len(seen) == count:
                break
        return place_K[list(seen.values())]

    def _record(
        self,
        latent: int,
        fired: Fired,
        logits: list[Extremes],
        norms: list[float],
        nearest: list[tuple[int, float]],
    ) -> LatentRecord:
        place_N, value_N = fired
        detail, length = self.detail, self.firings.length
        largest = float(value_N.max(initial=0.0))
        top_K = self._top(fired)
        drawn = parts(place_N, value_N, length, detail, np.random.default_rng((self.study.seed, latent)))
        shares_MKW = self.shares.of(latent) if self.shares is not None else None
        counts = np.bincount(bin_of(value_N, largest, detail.bins), minlength=detail.bins) if len(value_N) else [0]
        together = Together(self.firings)
        return LatentRecord(
            latent=latent,
            firings=len(place_N),
            histogram=Histogram(low=0.0, high=largest, counts=[int(count) for count in counts]),
            top=self._examples(top_K, fired, shares_MKW),
            ranges=[
                Interval(low=part.low, high=part.high, share=part.share, examples=self._examples(part.place_K, fired))
                for part in drawn
            ],
            logits=logits,
            norms=norms,
            nearest=nearest,
            together=together.of(latent, place_N, detail.neighbours) if detail.neighbours else [],
        )

    def _examples(self, place_K: np.ndarray, fired: Fired, shares_MKW: np.ndarray | None = None) -> list[ExampleRecord]:
        windows = Windows.around(place_K, self.firings, self.detail)
        found = []
        for k, values in enumerate(values_in(windows, *fired, self.firings.length)):
            sequence, start, stop = (int(each[k]) for each in (windows.sequence_K, windows.start_K, windows.stop_K))
            ids = self.firings.ids_RT[sequence, start:stop].tolist()
            shares: Mapping[str, np.ndarray] = {}
            if self.shares is not None and shares_MKW is not None and k < shares_MKW.shape[1]:
                rows = np.array(shares_MKW[:, k, : stop - start])
                shares = dict(zip(self.shares.models, rows, strict=True))
            found.append(
                ExampleRecord(
                    sequence=sequence,
                    start=start,
                    stop=stop,
                    peak=int(windows.position_K[k]) - start,
                    tokens=self.vocabulary.texts(ids),
                    values=values,
                    shares=shares,
                )
            )
        return found

    def _logits(self, latents: Sequence[int]) -> dict[int, list[Extremes]]:
        """By latent, at each site that it writes and that has a way to the logits."""
        crosscoder, found = self.study.crosscoder, dict[int, list[Extremes]]()
        if not self.detail.logits:
            return found
        places = {name: place for place, name in enumerate(crosscoder.written.names)}
        for start in range(0, len(latents), LATENTS_OF_LOGITS):
            block = latents[start : start + LATENTS_OF_LOGITS]
            with torch.no_grad():
                sites = list(
                    logit_extremes(
                        crosscoder, self.study.adapters, block, count=self.detail.logits, sites=self._logit_sites
                    )
                )
            for each in sites:
                model = each.site.partition("/")[0]
                for k, latent in enumerate(block):
                    if self.raw_norms_FS[latent, places[each.site]] > 0:
                        pairs = [
                            list(
                                zip(
                                    self.vocabulary.numbers(model, ids_KN[k].tolist()),
                                    effect_KN[k].tolist(),
                                    strict=True,
                                )
                            )
                            for ids_KN, effect_KN in (each.promoted, each.suppressed)
                        ]
                        extremes = Extremes(site=each.site, promoted=pairs[0], suppressed=pairs[1])
                        found.setdefault(latent, []).append(extremes)
        return found

    @cached_property
    def _logit_sites(self) -> list[str]:
        written = self.study.crosscoder.written.points_by_model
        return [
            f"{model}/{point}"
            for model, points in written.items()
            for point in (points if len(points) <= MOST_LOGIT_SITES else points[-1:])
        ]
