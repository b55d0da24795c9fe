"""Training on planted worlds, and what a prediction is."""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from crosscoders import (
    Crosscoder,
    InitialisationConfig,
    LossChoice,
    Site,
    TrainingConfig,
    build_crosscoder,
    fit,
)

BATCH = 2048
FIRST_HELD_OUT = 10**9
"""Token ids from here on are never trained on."""
TRAINED: list[Path] = []
"""The folder in which trained crosscoders are kept, if any; `--keep` names it."""


@frozen
class Scale:
    """How much to train."""

    samples: int
    pool: int
    """Different samples; they are gone through again in a new order."""
    held_out: int


FULL, QUICK = Scale(2_500_000, 800_000, 100_000), Scale(400_000, 200_000, 40_000)


@frozen
class Verdict:
    """One prediction on one seed."""

    id: str
    prediction: str
    threshold: str
    value: float
    holds: bool | None
    """None where the literature asks for a report and not for a threshold."""


@frozen(slots=False)
class Pool:
    """Samples by number that are made when they are first needed."""

    make: Callable[[Tensor], Tensor]
    count: int

    @cached_property
    def data(self) -> Tensor:
        """All samples, (count, X)."""
        return self.make(torch.arange(self.count))


def train(
    architecture: dict[str, Any],
    sites: tuple[Site, ...],
    loss: dict[str, Any],
    data: Tensor | Pool,
    *,
    samples: int,
    seed: int,
    lr: float = 3e-3,
    initialisation: InitialisationConfig | None = None,
) -> Crosscoder:
    """A crosscoder trained on shuffled passes over `data`, or the one kept from the same training before."""
    options = {"samples": samples, "seed": seed, "lr": lr, "initialisation": repr(initialisation)}
    kept = [folder / _fingerprint(data, architecture, loss, options) for folder in TRAINED]
    for folder in kept:
        if folder.exists():
            return Crosscoder.from_pretrained(folder)
    data = data.data if isinstance(data, Pool) else data
    crosscoder = build_crosscoder(architecture["name"], sites, **_without_name(architecture))
    config = TrainingConfig(num_tokens=samples, batch_size=BATCH, lr=lr, seed=seed, dead_after_share=0.02)
    made = LossChoice.of(loss["name"], **_without_name(loss)).build()
    for _ in fit(
        crosscoder, made, batches(data, seed), config, calibration_BX=data[:50_000], initialisation=initialisation
    ):
        pass
    for folder in kept:
        crosscoder.save_pretrained(folder)
    return crosscoder


def _fingerprint(data: Tensor | Pool, *tables: dict[str, Any]) -> str:
    """A name for one training: all that was asked for, and a sample of what it is trained on."""
    count = data.count if isinstance(data, Pool) else len(data)
    chosen = torch.arange(0, count, max(1, count // 1000))
    sample = data.make(chosen) if isinstance(data, Pool) else data[chosen]
    asked = json.dumps([BATCH, [count, sample.shape[1]], *tables], sort_keys=True, default=str)
    return hashlib.sha256(asked.encode() + sample.numpy().tobytes()).hexdigest()[:32]


def batches(data: Tensor, seed: int) -> Iterator[Tensor]:
    """Full batches without end."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        parts = data[torch.randperm(len(data), generator=generator)].split(BATCH)
        yield from (part for part in parts if len(part) == BATCH)


def spearman(x: Tensor, y: Tensor) -> float:
    """Rank correlation."""
    ranks = torch.stack([v.argsort().argsort().double() for v in (x, y)])
    return float(torch.corrcoef(ranks)[0, 1])


class Clock:
    """Says what was measured and how long it took."""

    def __init__(self, seed: int) -> None:
        self.seed, self._since = seed, time.monotonic()

    def show(self, name: str, found: dict[str, Any]) -> dict[str, Any]:
        now = time.monotonic()
        plain = {k: v for k, v in found.items() if isinstance(v, int | float | dict | type(None))}
        short = {k: round(v, 3) if isinstance(v, float) else v for k, v in itertools.islice(plain.items(), 8)}
        print(f"seed {self.seed}  {name:28s} {now - self._since:4.0f} s  {short}", flush=True)
        self._since = now
        return found


def _without_name(table: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key != "name"}
