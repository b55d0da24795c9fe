"""A shuffled stream of activations with bounded memory, whose position is a few numbers.

Sequences are harvested in blocks. A coin per row sends it into the pool of its own block or of the next one, and
each pool is shuffled whole; so neighbours in a text end up far apart, at most two blocks are held (three with
prefetching), and the stream can start at any pool from two blocks. In a distributed run every process draws the same
global order and yields the rows that it harvested itself, so the global batches are those of a single process.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from ..errors import TrainingError
from .blocks import Block, BlockSource


class ActivationStream:
    """Yields this process's rows, (B on this process, X), of each global batch of raw activations.

    `batch_size` is the number of tokens of a global batch. With `prefetch`, a thread fetches the next block while
    training uses the current one; it knows `num_batches`, the total number of batches, and does not prefetch past the
    end.
    """

    def __init__(
        self, blocks: BlockSource, *, batch_size: int, seed: int, prefetch: bool = False, num_batches: int | None = None
    ) -> None:
        self.blocks, self.batch_size, self.seed = blocks, batch_size, seed
        self._num_rows = None if num_batches is None else num_batches * batch_size
        self._thread = ThreadPoolExecutor(1, "harvest") if prefetch else None
        self._coming: tuple[int, Future[tuple[Block, dict[str, Any]]]] | None = None
        self._held: dict[int, Block] = {}
        self._positions: dict[int, dict[str, Any]] = {0: blocks.start()}
        self._pool, self._offset, self._drawn = 0, 0, 0
        self._order: tuple[int, Tensor] | None = None
        self.read_so_far: dict[str, int] = {"passes": 0, "skipped": 0}
        """How often the token source has been read to its end for what was drawn, and how many bad rows were met."""

    def __iter__(self) -> Iterator[Tensor]:
        """Yield batches endlessly, from the current position on."""
        while True:
            yield self._next_batch()

    def state(self) -> dict[str, Any]:
        """The position, as JSON data."""
        oldest = max(0, self._pool - 1)
        return {
            "pool": self._pool,
            "offset": self._offset,
            "drawn": self._drawn,
            "oldest_block": oldest,
            "position": self._positions[oldest],
            "read_so_far": self.read_so_far,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go to a position that `state` returned; the blocks that it needs are fetched again."""
        self._forget_coming()
        self._pool, self._offset, self._drawn = state["pool"], state["offset"], state["drawn"]
        self._held.clear()
        self._order = None
        self._positions = {state["oldest_block"]: state["position"]}
        self.read_so_far = dict(state["read_so_far"])

    def close(self) -> None:
        """Wait for the prefetching thread, if there is one, and shut it down."""
        self._forget_coming()
        if self._thread is not None:
            self._thread.shutdown()

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
                raise TrainingError("three consecutive blocks have no kept token; check the masks and the token source")
            if self._offset == len(order):
                self._pool, self._offset = self._pool + 1, 0
                self._held.pop(self._pool - 2, None)
                self._positions.pop(self._pool - 2, None)
                self._order = None
        self._drawn += self.batch_size
        return torch.cat(parts).float()

    def _pool_order(self, pool: int) -> Tensor:
        """The shuffled global rows of a pool, (N, 2) pairs of block and slot; identical on every process."""
        if self._order is None or self._order[0] != pool:
            rows = []
            for index in range(max(0, pool - 1), pool + 1):
                slots = self._block(index).keep_N.nonzero().squeeze(1)
                coin = torch.rand(len(slots), generator=self._generator("coin", index)) < 0.5
                mine = slots[coin if index == pool else ~coin]
                rows.append(torch.stack([torch.full_like(mine, index), mine], dim=1))
            joined = torch.cat(rows)
            self._order = pool, joined[torch.randperm(len(joined), generator=self._generator("pool", pool))]
            self._prefetch(pool + 1, len(joined))
        return self._order[1]

    def _rows(self, pool: int, taken: Tensor) -> Tensor:
        """This process's share of the chosen rows, in the order given."""
        local_N = torch.full((len(taken),), -1)
        for index in range(max(0, pool - 1), pool + 1):
            here = taken[:, 0] == index
            local_N[here] = self._block(index).local_of_slot[taken[here, 1]]
        mine = local_N >= 0
        position = torch.cumsum(mine, 0) - 1
        device = self.blocks.device
        x_NX = torch.empty(int(mine.sum()), self.blocks.width, dtype=self.blocks.dtype, device=device)
        for index in range(max(0, pool - 1), pool + 1):
            here = mine & (taken[:, 0] == index)
            x_NX[position[here].to(device)] = self._block(index).x_RX[local_N[here].to(device)]
        return x_NX

    def _generator(self, purpose: str, index: int) -> torch.Generator:
        salt = {"coin": 1, "pool": 2}[purpose]
        return torch.Generator().manual_seed((self.seed * 1_000_003 + index) * 7 + salt)

    def _block(self, index: int) -> Block:
        if index not in self._held:
            assert index in self._positions, f"block {index} was requested before its predecessor"
            if self._coming is not None and self._coming[0] == index:
                block, after = self._coming[1].result()
                self._coming = None
            else:
                block, after = self.blocks.read(index, self._positions[index])
            self._held[index], self._positions[index + 1] = block, after
            self.read_so_far = {key: max(value, after.get(key, 0)) for key, value in self.read_so_far.items()}
        return self._held[index]

    def _prefetch(self, index: int, pool_rows: int) -> None:
        """Start fetching a block, if rows beyond the current pool will be drawn."""
        if self._thread is None or self._coming is not None or index in self._held:
            return
        if self._num_rows is None or self._drawn - self._offset + pool_rows < self._num_rows:
            self._coming = index, self._thread.submit(self.blocks.read, index, self._positions[index])

    def _forget_coming(self) -> None:
        if self._coming is not None and not self._coming[1].cancel():
            self._coming[1].exception()
        self._coming = None
