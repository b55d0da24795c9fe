"""Where a run's activations come from: models that run now, or a cache of their earlier output (`cache`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from attrs import frozen
from torch import Tensor
from tqdm.auto import tqdm

from ..crosscoder.sites import SiteLayout
from ..errors import ConfigError
from ..models.adapter import ModelAdapter
from ..models.choice import choose_pack
from ..models.in_common import built_together
from ..models.packing import Packing
from ..models.paired import make_reader
from ..models.sample import sample
from ..models.sequences import PACKINGS, SequenceReader, reading_adapter
from ..models.split import Split
from ..models.tokens import TokenBatch, TokenSource
from ..plugins.registry import Registry
from ..processes import ALONE, Processes
from .blocks import BlockSource, LiveBlocks, sequences_per_block
from .calibration import Calibration, calibrate
from .config import HarvestConfig
from .harvest import Harvester, resolve_sites
from .masks import keep_mask

HELD_OUT_TRIES = 64
"""Rows of the held-out split that are looked through for a token that the masks leave."""


class ActivationSource(Protocol):
    """Supplies activations for training and evaluating one or several crosscoders."""

    layout: SiteLayout
    models: Mapping[str, Any]
    """The description of each model, by key; see `ModelAdapter.describe`."""
    packing: Packing
    """How documents share rows."""

    def calibrate(self) -> Calibration:
        """Compute or load the statistics of the first tokens."""

    def blocks(self, median_norm_S: Tensor) -> BlockSource:
        """The blocks of the training tokens, from the first one on."""

    def held_out(self, median_norm_S: Tensor, num_tokens: int) -> Iterator[Tensor]:
        """This process's share of the held-out activations; every process yields the same number of batches."""


@frozen(eq=False)
class HeldOutRows:
    """Some held-out rows with their activations."""

    tokens: TokenBatch
    x_BTX: Tensor
    """Raw activations of every token."""
    keep_BT: Tensor
    """Tokens that count."""


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
        models: Mapping[str, ModelAdapter] | None = None,
    ) -> None:
        self.config, self.processes = config, processes
        # Models in memory take the place of those that the config names, which are then not loaded.
        given = models or {}
        with built_together():
            self.adapters: dict[str, ModelAdapter] = {
                key: (given[key] if key in given else config.models[key].build(registry=registry)).to(device)
                for key in dict.fromkeys([*config.models, *given])
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
        self._samples: dict[int, TokenSource] = {}
        self.pack = self._choose_pack()
        self.packing: Packing = PACKINGS[self.pack]

    def start(self) -> dict[str, Any]:
        """The position of the first block."""
        return self._reader("train").state()

    def calibrate(self) -> Calibration:
        self._check_held_out()
        return calibrate(self._reader("train"), self.harvester, self.config.activations, processes=self.processes)

    def blocks(self, median_norm_S: Tensor) -> LiveBlocks:
        return self._blocks(
            self._reader("train"), median_norm_S, sequences_per_block(self.config.activations, self.processes.world)
        )

    def held_out_blocks(self, median_norm_S: Tensor, num_tokens: int) -> LiveBlocks:
        """A sample of the held-out tokens, one forward pass in a block."""
        reader = self._sampled(num_tokens)
        return self._blocks(reader, median_norm_S, self.config.activations.rows_per_forward)

    def held_out(self, median_norm_S: Tensor, num_tokens: int) -> Iterator[Tensor]:
        blocks = self.held_out_blocks(median_norm_S, num_tokens)
        position = blocks.start()
        for _ in range(num_passes(num_tokens, self.config.activations.context_length, blocks.num_sequences)):
            _, x_RX, position = blocks.harvest(position)
            yield x_RX.float()

    def held_out_rows(self, median_norm_S: Tensor, num_tokens: int) -> Iterator[HeldOutRows]:
        """Rows of a sample of the held-out tokens with their activations, on every process the same."""
        reader, config = self._sampled(num_tokens), self.config.activations
        rows = -(-num_tokens // config.context_length)
        for first in range(0, rows, config.rows_per_forward):
            tokens = reader.read(min(config.rows_per_forward, rows - first)).to(self.harvester.device)
            x_BTX = self.harvester(tokens)
            norms_BTS = self.harvester.norms(x_BTX)
            yield HeldOutRows(tokens, x_BTX, keep_mask(config.masks, tokens, norms_BTS, median_norm_S))

    @property
    def _evaluated(self) -> Split:
        return "held_out" if self.config.activations.held_out_share else "train"

    def _choose_pack(self) -> bool | str:
        activations = self.config.activations
        chosen = choose_pack(
            self.tokens,
            self.harvester.adapters,
            self.reading,
            self.layout.points_by_model,
            context_length=activations.context_length,
            pack=activations.pack,
            held_out_share=activations.held_out_share,
        )
        # All processes make the same rows, even if rounding lets one of them judge otherwise.
        agreed = self.processes.gather_for_harvest(torch.tensor([chosen is True]))
        return chosen if chosen is not True else bool(agreed.all())

    def _check_held_out(self) -> None:
        """See that evaluation will have a token, before training: `ConfigError` where it will not."""
        reader = self._reader(self._evaluated)
        for _ in range(HELD_OUT_TRIES):
            tokens = reader.read(1)
            if bool(keep_mask(self.config.activations.masks, tokens, torch.zeros(*tokens.ids.shape, 0), None).any()):
                return
        raise ConfigError(
            f"the masks leave no token of the first {HELD_OUT_TRIES} rows of the {self._evaluated} split to evaluate "
            "on; look at activations.masks and at the tokens"
        )

    def _blocks(self, reader: SequenceReader, median_norm_S: Tensor, num_sequences: int) -> LiveBlocks:
        return LiveBlocks(
            reader,
            self.harvester,
            self.config.activations,
            num_sequences=num_sequences,
            median_norm_S=median_norm_S,
            processes=self.processes,
        )

    def _sampled(self, num_tokens: int) -> SequenceReader:
        """Rows of a sample of what is evaluated on, which is drawn once."""
        if num_tokens not in self._samples:
            self._samples[num_tokens] = sample(self._reader(self._evaluated), num_tokens)
        return self._reader("train", self._samples[num_tokens], 0.0)

    def _reader(
        self, split: Split, source: TokenSource | None = None, held_out_share: float | None = None
    ) -> SequenceReader:
        activations = self.config.activations
        return make_reader(
            source or self.tokens,
            self.adapters,
            self.reading,
            context_length=activations.context_length,
            pack=self.pack,
            split=split,
            held_out_share=activations.held_out_share if held_out_share is None else held_out_share,
            roles=activations.masks.roles,
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
    """How many forward passes of `rows` sequences each it takes to read `num_tokens` tokens."""
    return -(-num_tokens // context_length // rows)
