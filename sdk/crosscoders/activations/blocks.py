"""Blocks of harvested activations: what the stream mixes, and the cache stores."""

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
    """Some successive sequences. A slot is a token's place in them; only kept tokens have activations."""

    keep_N: Tensor
    """Boolean, one for each slot of all processes: which tokens are kept."""
    first: int
    """This process's first slot."""
    x_RX: Tensor
    """Raw activations of the kept tokens among this process's slots, in order."""
    local_of_slot: Tensor = field()
    """For each slot the row of `x_RX`, or −1 where the token is not kept or of another process."""

    @local_of_slot.default
    def _local_of_slot(self) -> Tensor:
        local_N = torch.full((len(self.keep_N),), -1)
        kept_N = self.keep_N.nonzero().squeeze(1)
        begin = int(self.keep_N[: self.first].sum())
        local_N[kept_N[begin : begin + len(self.x_RX)]] = torch.arange(len(self.x_RX))
        return local_N


class BlockSource(Protocol):
    """Blocks by index. `position` says where in the tokens a block begins: plain JSON data."""

    device: torch.device
    """Where the activations are."""
    width: int
    """X: the columns of all sites."""
    dtype: torch.dtype

    def start(self) -> dict[str, Any]:
        """The position of block 0."""

    def read(self, index: int, position: dict[str, Any]) -> tuple[Block, dict[str, Any]]:
        """Block `index`, which begins at `position`, and the position of the next."""


class LiveBlocks:
    """Blocks of `num_sequences` sequences (or as the config says) that models make when they are asked for."""

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
        """This process's rows of a block: which tokens are kept (rows, T), their activations, where the next begins."""
        if self.reader.state() != position:
            self.reader.restore(position)
        mine = self.reader.read(self.num_sequences).sequences(*self.processes.share(self.num_sequences))
        after = self.reader.state()
        x_BTX = self.harvester(mine)
        keep_BT = keep_mask(self.config.masks, mine.to(self.device), self.harvester.norms(x_BTX), self.median_norm_S)
        return keep_BT.cpu(), x_BTX[keep_BT].to(self.dtype), after


def sequences_per_block(config: ActivationConfig, world: int) -> int:
    """Sequences of one block: as many for every process."""
    rows = max(1, config.block_tokens // config.context_length)
    return -(-rows // world) * world
