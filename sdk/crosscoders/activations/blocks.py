"""Blocks of harvested activations: the unit that the stream shuffles and the cache stores."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from attrs import field, frozen
from torch import Tensor

from ..models.sequences import SequenceReader
from ..processes import ALONE, Processes
from .config import ActivationConfig
from .harvest import Harvester
from .masks import keep_mask


@frozen(eq=False)
class Block:
    """Activations of consecutive sequences. A slot is the position of one token; only kept tokens have activations."""

    keep_N: Tensor
    """Boolean mask over the slots of all processes: which tokens are kept."""
    first: int
    """The first slot of this process."""
    x_RX: Tensor
    """Raw activations of the kept tokens in this process's slots, in slot order."""
    local_of_slot: Tensor = field()
    """For each slot, its row in `x_RX`, or −1 if the token is not kept or belongs to another process."""

    @local_of_slot.default
    def _local_of_slot(self) -> Tensor:
        local_N = torch.full((len(self.keep_N),), -1)
        kept_N = self.keep_N.nonzero().squeeze(1)
        begin = int(self.keep_N[: self.first].sum())
        local_N[kept_N[begin : begin + len(self.x_RX)]] = torch.arange(len(self.x_RX))
        return local_N


class BlockSource(Protocol):
    """Provides blocks by index. A `position` is plain JSON data that says where in the token stream a block begins."""

    device: torch.device
    """The device that holds the activations."""
    width: int
    """X, the number of columns of all sites together."""
    dtype: torch.dtype

    def start(self) -> dict[str, Any]:
        """The position of block 0."""

    def read(self, index: int, position: dict[str, Any]) -> tuple[Block, dict[str, Any]]:
        """Return block `index`, which begins at `position`, and the position of the next block."""


class LiveBlocks:
    """Blocks that the models compute on demand, of `num_sequences` sequences each (by default, as the config says)."""

    def __init__(
        self,
        reader: SequenceReader,
        harvester: Harvester,
        config: ActivationConfig,
        *,
        num_sequences: int = 0,
        median_norm_S: Tensor | None = None,
        processes: Processes = ALONE,
    ) -> None:
        self.reader, self.harvester, self.config = reader, harvester, config
        self.median_norm_S, self.processes = median_norm_S, processes
        self.device, self.width = harvester.device, harvester.layout.width
        self.dtype: torch.dtype = getattr(torch, config.buffer_dtype)
        self.num_sequences = num_sequences or sequences_per_block(config, processes.world)

    def start(self) -> dict[str, Any]:
        return self.reader.state()

    def read(self, index: int, position: dict[str, Any]) -> tuple[Block, dict[str, Any]]:
        keep_BT, x_RX, after = self.harvest(position)
        all_keep = self.processes.gather_for_harvest(keep_BT).flatten()
        return Block(all_keep, self.processes.rank * keep_BT.numel(), x_RX), after

    def harvest(self, position: dict[str, Any]) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Run the models on this process's rows of a block.

        Returns which tokens are kept (rows, T), their activations, and the position of the next block.
        """
        if self.reader.state() != position:
            self.reader.restore(position)
        mine = self.reader.read(self.num_sequences).sequences(*self.processes.share(self.num_sequences))
        after = self.reader.state()
        x_BTX = self.harvester(mine)
        keep_BT = keep_mask(self.config.masks, mine.to(self.device), self.harvester.norms(x_BTX), self.median_norm_S)
        return keep_BT.cpu(), x_BTX[keep_BT].to(self.dtype), after


def sequences_per_block(config: ActivationConfig, world: int) -> int:
    """The number of sequences in a block, rounded so that every process has equally many."""
    rows = max(1, config.block_tokens // config.context_length)
    return -(-rows // world) * world
