"""Where a run's activations come from: models that run now, or what they gave before (`cache`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..crosscoder.sites import SiteLayout
from ..models.adapter import ModelAdapter
from ..models.paired import make_reader
from ..models.sequences import SequenceReader, Split, reading_adapter
from ..models.tokens import TokenSource
from ..plugins.registry import Registry
from ..processes import ALONE, Processes
from .blocks import BlockSource, LiveBlocks, sequences_per_block
from .calibration import Calibration, calibrate
from .config import HarvestConfig
from .harvest import Harvester, resolve_sites


class ActivationSource(Protocol):
    """Activations for training and evaluation, of one or several crosscoders."""

    layout: SiteLayout
    models: Mapping[str, Any]
    """What each model says of itself, by key."""

    def calibrate(self) -> Calibration:
        """Statistics of the first tokens."""

    def blocks(self, median_norm_S: Tensor) -> BlockSource:
        """Blocks of the training tokens, from the first on."""

    def held_out(self, median_norm_S: Tensor, num_tokens: int) -> Iterator[Tensor]:
        """This process's share of the held-out activations, equally many pieces on every process."""


class LiveActivations:
    """Runs the models of a config whenever activations are asked for."""

    def __init__(
        self,
        config: HarvestConfig,
        registry: Registry,
        device: torch.device,
        *,
        processes: Processes = ALONE,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.config, self.processes = config, processes
        self.adapters: dict[str, ModelAdapter] = {
            key: choice.build(registry=registry).to(device) for key, choice in config.models.items()
        }
        self.layout = resolve_sites(self.adapters, config.sites)
        self.models: Mapping[str, Any] = {key: adapter.describe() for key, adapter in self.adapters.items()}
        self.reading = reading_adapter(self.adapters, config.tokenizer)
        self.tokens: TokenSource = config.tokens.build(registry=registry)
        self.harvester = Harvester(
            self.adapters,
            self.layout,
            rows_per_forward=config.activations.rows_per_forward,
            device=device,
            autocast=autocast,
        )

    def start(self) -> dict[str, Any]:
        """The position of the first block."""
        return self._reader("train").state()

    def calibrate(self) -> Calibration:
        return calibrate(self._reader("train"), self.harvester, self.config.activations, processes=self.processes)

    def blocks(self, median_norm_S: Tensor) -> LiveBlocks:
        return self._blocks("train", median_norm_S, sequences_per_block(self.config.activations, self.processes.world))

    def held_out_blocks(self, median_norm_S: Tensor) -> LiveBlocks:
        """The held-out tokens, one forward pass in a block."""
        split: Split = "held_out" if self.config.activations.held_out_share else "train"
        return self._blocks(split, median_norm_S, self.config.activations.rows_per_forward)

    def held_out(self, median_norm_S: Tensor, num_tokens: int) -> Iterator[Tensor]:
        blocks = self.held_out_blocks(median_norm_S)
        position = blocks.start()
        for _ in range(num_passes(num_tokens, self.config.activations.context_length, blocks.num_sequences)):
            _, x_RX, position = blocks.harvest(position)
            yield x_RX.float()

    def _blocks(self, split: Split, median_norm_S: Tensor, num_sequences: int) -> LiveBlocks:
        return LiveBlocks(
            self._reader(split),
            self.harvester,
            self.config.activations,
            num_sequences=num_sequences,
            median_norm_S=median_norm_S,
            processes=self.processes,
        )

    def _reader(self, split: Split) -> SequenceReader:
        activations = self.config.activations
        return make_reader(
            self.tokens,
            self.adapters,
            self.reading,
            context_length=activations.context_length,
            pack=activations.pack,
            split=split,
            held_out_share=activations.held_out_share,
        )


@contextmanager
def watched(source: ActivationSource, what: str, num_tokens: int, *, quiet: bool) -> Iterator[None]:
    """A progress bar over about `num_tokens` tokens of this process, for as long as models run."""
    if not isinstance(source, LiveActivations):
        yield
        return
    with tqdm(total=num_tokens, unit="tok", unit_scale=True, desc=what, disable=quiet, leave=False) as bar:
        source.harvester.watch = bar.update
        try:
            yield
        finally:
            source.harvester.watch = None


def num_passes(num_tokens: int, context_length: int, rows: int) -> int:
    """Forward passes of `rows` sequences each that have `num_tokens` tokens."""
    return -(-num_tokens // context_length // rows)
