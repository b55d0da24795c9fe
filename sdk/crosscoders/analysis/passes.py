"""What a study keeps between passes over its tokens: rows of tokens, and activations as far as a budget goes.

Reading, tokenising and harvesting cost far more than what most analyses do with the activations, so the first pass
keeps what it made and later ones take it from there. Beyond the budget tokens stay and activations are made anew, or,
with a folder, are read from files there.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import torch
from attrs import define, frozen
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..activations import ActivationConfig, Harvester, keep_mask
from ..crosscoder.latents import Latents
from ..crosscoder.module import Crosscoder
from ..models.sequences import SequenceReader
from ..models.tokens import TokenBatch

MEMORY = 2**30
"""Bytes of activations and latents that a study keeps if nothing else is said."""


@frozen(eq=False, slots=False)
class StudyBatch:
    """A few sequences with their activations."""

    first_sequence: int
    """The index of this batch's first row within the whole pass over the tokens."""
    tokens: TokenBatch
    x_BTX: Tensor
    """Raw activations of every token, including masked ones."""
    keep_BT: Tensor
    """Boolean mask of the tokens that count; the others are masked."""
    crosscoder: Crosscoder
    """The study's."""

    @property
    def x_BX(self) -> Tensor:
        """Raw activations of the tokens that count, row by row."""
        return self.x_BTX[self.keep_BT]

    @property
    def place_B2(self) -> Tensor:
        """Row within this batch and position of each token that counts."""
        return self.keep_BT.nonzero()

    @cached_property
    def latents(self) -> Latents:
        """Latents of `x_BX` by the inference gate, encoded once for all analyses of the study."""
        with torch.no_grad():
            return self.crosscoder.encode(self.x_BX)

    def rows(self, count: int) -> StudyBatch:
        """The first rows only."""
        if count >= len(self.keep_BT):
            return self
        return StudyBatch(
            self.first_sequence,
            self.tokens.sequences(0, count),
            self.x_BTX[:count],
            self.keep_BT[:count],
            self.crosscoder,
        )


@define(eq=False)
class _Kept:
    """One batch as it is kept."""

    first_sequence: int
    tokens: TokenBatch
    keep_BT: Tensor
    batch: StudyBatch | None
    """With its activations, on the CPU, where the budget allows."""
    file: Path | None
    """Where its activations are, if in a file."""
    version: int
    """Of the crosscoder that made the latents of `batch`."""

    @property
    def num_bytes(self) -> int:
        """What its activations and latents take up in memory."""
        if self.batch is None:
            return 0
        latents = self.batch.__dict__.get("latents")
        size = self.batch.x_BTX.nbytes
        if latents is not None:
            size += latents.token_N.nbytes + latents.latent_N.nbytes + latents.value_N.nbytes
        return size


class Passes:
    """Batches of the same tokens, again and again, for one crosscoder."""

    def __init__(
        self,
        crosscoder: Crosscoder,
        reader: SequenceReader,
        harvester: Harvester,
        config: ActivationConfig,
        *,
        memory: int = MEMORY,
        folder: Path | None = None,
    ) -> None:
        self.crosscoder, self.reader, self.harvester, self.config = crosscoder, reader, harvester, config
        self.memory, self.folder = memory, folder
        self.median_norm_S: Tensor | None = None
        """Median norm at each site of the first batch, by which outliers are left out."""
        self._kept: list[_Kept] = []
        self._spill: Path | None = None

    def batches(self, num_sequences: int) -> Iterator[StudyBatch]:
        """The first `num_sequences` rows, fewer where the tokens end before, `rows_per_forward` at a time at most."""
        done = index = 0
        while done < num_sequences:
            if index < len(self._kept):
                batch = self._again(self._kept[index]).rows(num_sequences - done)
            else:
                batch = self._read(done, num_sequences - done)
            if not len(batch.keep_BT):
                return
            yield batch
            done += len(batch.keep_BT)
            index += 1

    def _read(self, first: int, count: int) -> StudyBatch:
        """Up to `count` more rows, none at the end of the tokens; kept as the budget allows."""
        device = self.crosscoder.device
        tokens = self.reader.read(min(self.config.rows_per_forward, count))
        if not len(tokens.ids):
            none = torch.zeros(tokens.ids.shape, dtype=torch.bool)
            return StudyBatch(first, tokens, torch.zeros(*none.shape, 0), none, self.crosscoder)
        x_BTX, keep_BT = self._harvest(tokens)
        batch = StudyBatch(first, tokens.to(device), x_BTX.to(device), keep_BT.to(device), self.crosscoder)
        kept = _Kept(first, tokens, keep_BT.cpu(), None, None, version_of(self.crosscoder))
        if x_BTX.nbytes + sum(other.num_bytes for other in self._kept) <= self.memory:
            on_cpu = device.type == "cpu"
            kept.batch = batch if on_cpu else StudyBatch(first, tokens, x_BTX.cpu(), kept.keep_BT, self.crosscoder)
        elif self.folder is not None:
            if self._spill is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._spill = Path(tempfile.mkdtemp(prefix="study-", dir=self.folder))
                weakref.finalize(self, shutil.rmtree, self._spill, ignore_errors=True)
            kept.file = self._spill / f"{len(self._kept)}.safetensors"
            save_file({"x_BTX": x_BTX.cpu().contiguous()}, kept.file)
        self._kept.append(kept)
        return batch

    def _harvest(self, tokens: TokenBatch) -> tuple[Tensor, Tensor]:
        """Activations of all tokens, and which of them count."""
        tokens = tokens.to(self.harvester.device)
        x_BTX = self.harvester(tokens)
        norms_BTS = self.harvester.norms(x_BTX)
        if self.median_norm_S is None:
            plain_BT = keep_mask(self.config.masks, tokens, norms_BTS, None)
            self.median_norm_S = norms_BTS[plain_BT].median(dim=0).values
        return x_BTX, keep_mask(self.config.masks, tokens, norms_BTS, self.median_norm_S)

    def _again(self, kept: _Kept) -> StudyBatch:
        device = self.crosscoder.device
        if kept.batch is not None:
            version = version_of(self.crosscoder)
            if version != kept.version:
                # The crosscoder was changed: its latents are others now.
                old = kept.batch
                kept.batch = StudyBatch(old.first_sequence, old.tokens, old.x_BTX, old.keep_BT, self.crosscoder)
                kept.version = version
            if device.type == "cpu":
                return kept.batch
            x_BTX = kept.batch.x_BTX.to(device)
        elif kept.file is not None:
            x_BTX = load_file(kept.file, device=str(device))["x_BTX"]
        else:
            x_BTX = self.harvester(kept.tokens.to(self.harvester.device)).to(device)
        return StudyBatch(kept.first_sequence, kept.tokens.to(device), x_BTX, kept.keep_BT.to(device), self.crosscoder)


def version_of(crosscoder: Crosscoder) -> int:
    """A number that changes whenever weights, scales or the gate do."""
    tensors = [*crosscoder.parameters(), *crosscoder.buffers()]
    return hash((id(crosscoder.gate), *((id(tensor), tensor._version) for tensor in tensors)))
