"""A shuffled stream of activations with bounded memory, whose position is a few numbers.

Sequences are harvested in blocks. A coin per row sends it into the pool of its own block or of the next one, and
each pool is shuffled whole; so neighbours in a text end up far apart, at most two blocks are ever held, and the
stream can start at any pool from two harvests. In a distributed run every process draws the same global order and
yields the rows that it harvested itself, so the global batches are those of a single process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from attrs import field, frozen
from attrs.validators import ge, in_, le
from torch import Tensor

from ..errors import TrainingError
from .harvest import Harvester
from .masks import MaskConfig, keep_mask
from .sequences import SequenceReader

SAMPLE_ROWS = 4096
"""Rows of the sample that calibration returns."""


@frozen(kw_only=True)
class ActivationConfig:
    """How activations are harvested and shuffled."""

    context_length: int = field(default=128, validator=ge(2))
    """Tokens in a sequence."""
    pack: bool = True
    """Let documents follow each other without padding; without, one document is one sequence."""
    rows_per_forward: int = field(default=64, validator=ge(1))
    """Sequences in one forward pass of a model."""
    block_tokens: int = field(default=65_536, validator=ge(1))
    """Tokens harvested at a time; about twice as many are held in memory."""
    calibration_tokens: int = field(default=32_768, validator=ge(1))
    """Tokens from which norms and means are estimated before training."""
    held_out_share: float = field(default=0.05, validator=[ge(0.0), le(0.5)])
    """Share of documents kept for evaluation, chosen by content."""
    buffer_dtype: str = field(default="float32", validator=in_(("float32", "bfloat16")))
    """How activations wait for their batch."""
    masks: MaskConfig = field(factory=MaskConfig)
    """Which tokens are left out."""


@frozen(eq=False)
class Calibration:
    """Statistics of the kept tokens, taken before training."""

    median_norm_S: Tensor
    mean_norm_S: Tensor
    mean_X: Tensor
    """Mean of the raw activations."""
    sample_BX: Tensor
    """Raw activations of some of the tokens, the same on every process."""
    num_tokens: int = 0


Gather = Callable[[Tensor], Tensor]
"""Concatenates a tensor of equal shape from every process along dimension 0, in rank order."""


def _alone(tensor: Tensor) -> Tensor:
    return tensor


@frozen(eq=False)
class _Block:
    """The kept rows of one harvest: where each is in the global order, and this process's activations."""

    row_R: Tensor  # global slot of each kept row, the same on every process
    local_of_slot: Tensor  # global slot -> index into x, or -1 where another process holds it
    x_RX: Tensor


class ActivationStream:
    """Yields global batches of raw activations: this process's rows of them, (B here, X).

    `batch_size` is the number of tokens of a global batch. `rank` and `world` say which share this process harvests;
    `gather` joins masks over processes.
    """

    def __init__(
        self,
        reader: SequenceReader,
        harvester: Harvester,
        config: ActivationConfig,
        *,
        batch_size: int,
        seed: int,
        median_norm_S: Tensor | None = None,
        rank: int = 0,
        world: int = 1,
        gather: Gather = _alone,
    ) -> None:
        self.reader, self.harvester, self.config = reader, harvester, config
        self.batch_size, self.seed, self.median_norm_S = batch_size, seed, median_norm_S
        self.rank, self.world, self.gather = rank, world, gather
        rows = max(1, config.block_tokens // config.context_length)
        self._rows_per_block = -(-rows // world) * world
        self._dtype = getattr(torch, config.buffer_dtype)
        self._blocks: dict[int, _Block] = {}
        self._reader_states: dict[int, dict[str, Any]] = {0: reader.state()}
        self._pool, self._offset = 0, 0
        self._order: tuple[int, Tensor] | None = None

    def __iter__(self) -> Iterator[Tensor]:
        """Batches without end, from the present position on."""
        while True:
            yield self._next_batch()

    def state(self) -> dict[str, Any]:
        """The position, as JSON data."""
        oldest = max(0, self._pool - 1)
        return {
            "pool": self._pool,
            "offset": self._offset,
            "oldest_block": oldest,
            "reader": self._reader_states[oldest],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go to a position that `state` returned; the blocks it needs are harvested again."""
        self._pool, self._offset = state["pool"], state["offset"]
        self._blocks.clear()
        self._order = None
        self._reader_states = {state["oldest_block"]: state["reader"]}
        self.reader.restore(state["reader"])

    def _next_batch(self) -> Tensor:
        parts, missing, empty = [], self.batch_size, 0
        while missing:
            order = self._pool_order(self._pool)
            taken = order[self._offset : self._offset + missing]
            parts.append(self._rows(self._pool, taken))
            missing -= len(taken)
            self._offset += len(taken)
            empty = 0 if len(taken) else empty + 1
            if empty > 3:
                raise TrainingError("no token of three successive blocks is kept; look at the masks and the tokens")
            if self._offset == len(order):
                self._pool, self._offset = self._pool + 1, 0
                self._blocks.pop(self._pool - 2, None)
                self._reader_states.pop(self._pool - 2, None)
                self._order = None
        return torch.cat(parts).float()

    def _pool_order(self, pool: int) -> Tensor:
        """The shuffled global rows of a pool: (N, 2) of block and slot. Equal on every process."""
        if self._order is None or self._order[0] != pool:
            rows = []
            for number in range(max(0, pool - 1), pool + 1):
                slots = self._block(number).row_R
                coin = torch.rand(len(slots), generator=self._generator("coin", number)) < 0.5
                mine = slots[coin if number == pool else ~coin]
                rows.append(torch.stack([torch.full_like(mine, number), mine], dim=1))
            joined = torch.cat(rows)
            self._order = pool, joined[torch.randperm(len(joined), generator=self._generator("pool", pool))]
        return self._order[1]

    def _rows(self, pool: int, taken: Tensor) -> Tensor:
        """This process's share of the chosen rows, in their order."""
        local_N = torch.full((len(taken),), -1)
        for number in range(max(0, pool - 1), pool + 1):
            here = taken[:, 0] == number
            local_N[here] = self._block(number).local_of_slot[taken[here, 1]]
        x_NX = torch.empty(
            int((local_N >= 0).sum()), self.harvester.layout.width, dtype=self._dtype, device=self.harvester.device
        )
        mine = local_N >= 0
        position = torch.cumsum(mine, 0) - 1
        for number in range(max(0, pool - 1), pool + 1):
            here = mine & (taken[:, 0] == number)
            x_NX[position[here].to(x_NX.device)] = self._block(number).x_RX[local_N[here].to(x_NX.device)]
        return x_NX

    def _generator(self, purpose: str, number: int) -> torch.Generator:
        salt = {"coin": 1, "pool": 2}[purpose]
        return torch.Generator().manual_seed((self.seed * 1_000_003 + number) * 7 + salt)

    def _block(self, number: int) -> _Block:
        if number not in self._blocks:
            newest = max(self._reader_states)
            assert number <= newest, f"block {number} was asked for before block {newest}"
            if self.reader.state() != self._reader_states[number]:
                self.reader.restore(self._reader_states[number])
            self._blocks[number] = self._harvest_block()
            self._reader_states[number + 1] = self.reader.state()
        return self._blocks[number]

    def _harvest_block(self) -> _Block:
        tokens = self.reader.read(self._rows_per_block)
        mine = tokens.rows(*self._share())
        x_BTX = self.harvester(mine)
        keep_BT = keep_mask(
            self.config.masks, mine.to(self.harvester.device), self.harvester.norms(x_BTX), self.median_norm_S
        )
        all_keep = self.gather(keep_BT).flatten().cpu()
        local_of_slot = torch.full((all_keep.numel(),), -1)
        first = self.rank * keep_BT.numel()
        kept = keep_BT.flatten().cpu()
        local_of_slot[first : first + kept.numel()][kept] = torch.arange(int(kept.sum()))
        return _Block(all_keep.nonzero().squeeze(1), local_of_slot, x_BTX[keep_BT].to(self._dtype))

    def _share(self) -> tuple[int, int]:
        rows = self._rows_per_block // self.world
        return self.rank * rows, (self.rank + 1) * rows


def calibrate(
    reader: SequenceReader, harvester: Harvester, config: ActivationConfig, *, rank: int, world: int, gather: Gather
) -> Calibration:
    """Median and mean norms and the mean activation of the kept tokens of the first sequences.

    The reader is put back afterwards, so calibration uses up no data. Medians come first and decide, by the outlier
    mask, what the means are taken over.
    """
    state = reader.state()
    rows = -(-max(1, config.calibration_tokens // config.context_length) // world) * world
    tokens = reader.read(rows)
    reader.restore(state)
    share = rows // world
    mine = tokens.rows(rank * share, (rank + 1) * share)
    x_BTX = harvester(mine)
    mine = mine.to(harvester.device)
    norms_BTS = harvester.norms(x_BTX)
    plain_BT = keep_mask(config.masks, mine, norms_BTS, None)
    all_norms, all_plain = gather(norms_BTS), gather(plain_BT)
    if not bool(all_plain.any()):
        raise TrainingError("the masks leave no token to estimate activation norms from")
    median_S = all_norms[all_plain].median(dim=0).values
    keep_BT = keep_mask(config.masks, mine, norms_BTS, median_S)
    all_keep = gather(keep_BT)
    count = int(all_keep.sum())
    if count == 0:
        raise TrainingError(
            f"max_norm_multiple {config.masks.max_norm_multiple} leaves no token; median norms are {median_S.tolist()}"
        )
    # Sum each process's share in float64, then over processes: the same to rounding for any number of them.
    sum_X = gather(x_BTX[keep_BT].double().sum(dim=0, keepdim=True)).sum(dim=0)
    # Every process gives equally many rows, its own again from the beginning where it has too few.
    own_BX = x_BTX[keep_BT] if bool(keep_BT.any()) else x_BTX.flatten(0, 1)
    own_BX = own_BX[torch.arange(-(-SAMPLE_ROWS // world), device=own_BX.device) % len(own_BX)]
    return Calibration(
        median_norm_S=median_S.cpu(),
        mean_norm_S=all_norms[all_keep].double().mean(dim=0).float().cpu(),
        mean_X=(sum_X / count).float().cpu(),
        sample_BX=gather(own_BX).cpu(),
        num_tokens=count,
    )
