"""One pass over a study's tokens into files: what fires where, by latent and by token, and the tokens themselves.

A dictionary of 131k latents fires some 50 million times on a million tokens. Kept in files by chunks of 256 latents,
each chunk is small, and everything about its latents is exact: histograms, examples, and what fires beside them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from attrs import define, field, frozen

from ..errors import AnalysisError
from ..files import disk_errors, write_whole
from .data_folder import CHUNK

if TYPE_CHECKING:
    from ..analysis.passes import StudyBatch
    from ..analysis.study import Study

FIRING = np.dtype([("latent", "<u4"), ("place", "<u4"), ("value", "<f4")])
MOST_PLACES = 2**32
BUFFERED = 2**22
"""Firings that are held before they are written: 50 MB."""
_DONE = "firings.json"


@frozen(eq=False, slots=False)
class Firings:
    """What the pass left in `folder`. A *place* is a token's number: sequence times `length` plus position."""

    folder: Path
    num_latents: int
    length: int
    """Positions of a row."""
    sequences: int
    num_tokens: int
    """Tokens that count."""

    @cached_property
    def count_F(self) -> np.ndarray:
        """Tokens on which each latent is active, of all latents."""
        return self._loaded("count")

    @cached_property
    def sum_F(self) -> np.ndarray:
        """Sum of each latent's activations."""
        return self._loaded("sum")

    @cached_property
    def max_F(self) -> np.ndarray:
        """Each latent's largest activation."""
        return self._loaded("max")

    @cached_property
    def ids_RT(self) -> np.ndarray:
        """Token ids of all rows, −1 for padding."""
        return self._mapped("ids.bin", "<i8").reshape(-1, self.length)

    @cached_property
    def bounds_P2(self) -> np.ndarray:
        """For each place, where in its row the document that it is of begins and ends."""
        return self._mapped("bounds.bin", "<u2").reshape(-1, 2)

    @cached_property
    def active_M(self) -> np.ndarray:
        """All latents that are active, place by place."""
        return self._mapped("active.bin", "<u4")

    @cached_property
    def starts_P(self) -> np.ndarray:
        """Where in `active_M` each place begins; one more for the end."""
        counts_P = self._mapped("counts.bin", "<u4")
        return np.concatenate([[0], np.cumsum(counts_P, dtype=np.int64)])

    def rows(self) -> list[np.ndarray]:
        """The ids of every sequence without padding."""
        return [row[row >= 0] for row in self.ids_RT]

    def of_chunk(self, chunk: int) -> np.ndarray:
        """Every firing of the chunk's latents, ordered by latent and then by place."""
        path = self.folder / f"chunk-{chunk:04d}.bin"
        found = np.fromfile(path, dtype=FIRING) if path.exists() else np.zeros(0, FIRING)
        # Files are in the order of places, and the sort is stable.
        return found[np.argsort(found["latent"], kind="stable")]

    def _loaded(self, name: str) -> np.ndarray:
        found: np.ndarray = np.load(self.folder / f"{name}.npy")
        return found

    def _mapped(self, name: str, dtype: str) -> np.ndarray:
        path = self.folder / name
        # As a plain array, since every small piece of a memmap would be made one too.
        return np.asarray(np.memmap(path, dtype=dtype, mode="r")) if path.stat().st_size else np.zeros(0, dtype)


def collect(study: Study, folder: Path, chosen_F: np.ndarray) -> Firings:
    """Read the study's tokens once; firings of the latents that are `chosen_F` are kept by chunk.

    A folder where this has ended before is taken as it is. `AnalysisError` where no token counts.
    """
    try:
        told = json.loads((folder / _DONE).read_text(encoding="utf-8"))
        return Firings(folder, **told)
    except (OSError, ValueError, TypeError):
        pass
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            path.unlink()
        writer = _Writer(folder, chosen_F)
        for batch in study.batches():
            writer.add(batch)
        return writer.end()


@define(eq=False)
class _Writer:
    folder: Path
    chosen_F: np.ndarray
    buffer: list[np.ndarray] = field(factory=list)
    length: int = 0
    sequences: int = 0
    num_tokens: int = 0
    count_F: np.ndarray = field()
    sum_F: np.ndarray = field()
    max_F: np.ndarray = field()

    @count_F.default
    def _no_counts(self) -> np.ndarray:
        return np.zeros(len(self.chosen_F), np.int64)

    @sum_F.default
    def _no_sums(self) -> np.ndarray:
        return np.zeros(len(self.chosen_F))

    @max_F.default
    def _no_maxima(self) -> np.ndarray:
        return np.zeros(len(self.chosen_F), np.float32)

    def add(self, batch: StudyBatch) -> None:
        """Take what one batch has."""
        attention_BT, keep_BT = batch.tokens.attention.cpu().numpy(), batch.keep_BT.cpu().numpy()
        rows, length = attention_BT.shape
        self.length = self.length or length
        if length != self.length or batch.first_sequence != self.sequences:
            raise AnalysisError("the study's batches do not follow each other with rows of one length")
        if (self.sequences + rows) * length > MOST_PLACES or length >= 2**16:
            raise AnalysisError(f"a dashboard reads {MOST_PLACES:,} tokens at most, in rows of up to 65,535")
        first = self.sequences * length
        place_B = first + np.flatnonzero(keep_BT)
        latents = batch.latents
        token_N, latent_N = latents.token_N.cpu().numpy(), latents.latent_N.cpu().numpy()
        value_N = latents.value_N.detach().float().cpu().numpy()
        F = len(self.chosen_F)
        self.count_F += np.bincount(latent_N, minlength=F)
        self.sum_F += np.bincount(latent_N, weights=value_N, minlength=F)
        np.maximum.at(self.max_F, latent_N, value_N)
        self._append("active.bin", latent_N.astype("<u4"))
        self._append("counts.bin", np.bincount(place_B[token_N] - first, minlength=rows * length).astype("<u4"))
        ids_BT = np.where(attention_BT, batch.tokens.ids.cpu().numpy(), -1)
        document = batch.tokens.document
        document_BT = attention_BT.astype(np.int64) if document is None else document.cpu().numpy()
        self._append("ids.bin", ids_BT.astype("<i8"))
        self._append("bounds.bin", bounds_of(np.where(attention_BT, document_BT, -1)).astype("<u2"))
        kept_N = self.chosen_F[latent_N]
        found = np.empty(int(kept_N.sum()), FIRING)
        found["latent"], found["value"] = latent_N[kept_N], value_N[kept_N]
        found["place"] = place_B[token_N[kept_N]]
        self.buffer.append(found)
        self.sequences += rows
        self.num_tokens += latents.num_tokens
        if sum(map(len, self.buffer)) > BUFFERED:
            self._flush()

    def end(self) -> Firings:
        """Write what is left, and last of all that everything is there."""
        if not self.num_tokens:
            raise AnalysisError("the study has no tokens that count")
        self._flush()
        for name in ("count", "sum", "max"):
            np.save(self.folder / f"{name}.npy", getattr(self, f"{name}_F"))
        told = {
            "num_latents": len(self.chosen_F),
            "length": self.length,
            "sequences": self.sequences,
            "num_tokens": self.num_tokens,
        }
        write_whole(self.folder / _DONE, json.dumps(told))
        return Firings(self.folder, **told)

    def _flush(self) -> None:
        found = np.concatenate([*self.buffer, np.zeros(0, FIRING)])
        self.buffer.clear()
        if not len(found):
            return
        order_N = np.argsort(found["latent"] // CHUNK, kind="stable")
        found = found[order_N]
        chunks, starts = np.unique(found["latent"] // CHUNK, return_index=True)
        for chunk, part in zip(chunks.tolist(), np.split(found, starts[1:]), strict=True):
            self._append(f"chunk-{chunk:04d}.bin", part)

    def _append(self, name: str, values: np.ndarray) -> None:
        with (self.folder / name).open("ab") as file:
            values.tofile(file)


def bounds_of(document_BT: np.ndarray) -> np.ndarray:
    """For each position of each row, where the run of one document that it is in begins and ends: (B, T, 2)."""
    rows, length = document_BT.shape
    changes_BT = np.ones((rows, length + 1), bool)
    changes_BT[:, 1:-1] = document_BT[:, 1:] != document_BT[:, :-1]
    position_T = np.arange(length)
    start_BT = np.maximum.accumulate(np.where(changes_BT[:, :-1], position_T, 0), axis=1)
    stop_BT = np.minimum.accumulate(np.where(changes_BT[:, 1:], position_T + 1, length)[:, ::-1], axis=1)[:, ::-1]
    return np.stack([start_BT, stop_BT], axis=2)


def chunks_of(latents: Sequence[int]) -> dict[int, list[int]]:
    """Increasing latents by the number of their chunk."""
    found: dict[int, list[int]] = {}
    for latent in latents:
        found.setdefault(latent // CHUNK, []).append(latent)
    return found
