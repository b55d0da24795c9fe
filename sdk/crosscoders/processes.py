"""The processes of a run: replicas train on different tokens, shards hold different latents of the same crosscoder.

Process r is shard r mod S of replica r div S. With one process every collective is a no-op.
"""

from __future__ import annotations

from typing import Any

import torch
from attrs import field, frozen
from torch import Tensor, distributed

from .errors import ConfigError


@frozen(kw_only=True, eq=False)
class Processes:
    """The place of this process among the others, and the collectives over them."""

    rank: int = 0
    world: int = 1
    num_shards: int = 1
    """The number of processes that shard the latents of one crosscoder."""
    shard_group: distributed.ProcessGroup | None = field(default=None, repr=False)
    """The process group of this replica's shards."""
    replica_group: distributed.ProcessGroup | None = field(default=None, repr=False)
    """The process group of those that hold the same latents as this process, one from each replica."""
    data_group: distributed.ProcessGroup | None = field(default=None, repr=False)
    """A group of all processes for the harvesting thread. Collectives of two threads in one group could be matched in a
    different order on another process, so the thread does not share the training's group."""

    @classmethod
    def connect(cls, rank: int, world: int, *, num_shards: int = 1) -> Processes:
        """Create the process groups; every process must call this. Raises `ConfigError` unless `num_shards` divides
        `world`."""
        if world % num_shards:
            raise ConfigError(f"{world} processes cannot be split into replicas of {num_shards} shards each")
        if world == 1:
            return cls()
        shard_groups = [
            distributed.new_group(list(range(first, first + num_shards))) for first in range(0, world, num_shards)
        ]
        replica_groups = [distributed.new_group(list(range(first, world, num_shards))) for first in range(num_shards)]
        return cls(
            rank=rank,
            world=world,
            num_shards=num_shards,
            shard_group=shard_groups[rank // num_shards],
            replica_group=replica_groups[rank % num_shards],
            data_group=distributed.new_group(backend="gloo"),
        )

    @property
    def num_replicas(self) -> int:
        """The number of copies of the crosscoder that are trained in parallel."""
        return self.world // self.num_shards

    @property
    def shard(self) -> int:
        """The index of the shard of latents that this process holds."""
        return self.rank % self.num_shards

    @property
    def replica(self) -> int:
        """The index of the replica that this process belongs to, and so of the tokens that it trains on."""
        return self.rank // self.num_shards

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes what must be written only once."""
        return self.rank == 0

    def share(self, count: int) -> tuple[int, int]:
        """This process's share of `count` items, as a range (start, stop)."""
        return self.rank * count // self.world, (self.rank + 1) * count // self.world

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over all processes."""
        return tensor if self.world == 1 else _summed(tensor, None)

    def over_replicas(self, tensor: Tensor) -> Tensor:
        """The sum over the processes that hold the same latents."""
        return tensor if self.num_replicas == 1 else _summed(tensor, self.replica_group)

    def over_shards(self, tensor: Tensor) -> Tensor:
        """The sum over the processes that see the same tokens."""
        return tensor if self.num_shards == 1 else _summed(tensor, self.shard_group)

    def sum_with_gradient(self, tensor: Tensor) -> Tensor:
        """Like `over_shards`, with gradient: every shard computes the same loss from the sum, so each summand gets the
        gradient of the sum as it is."""
        if self.num_shards == 1:
            return tensor
        summed: Tensor = _SumOverShards.apply(tensor, self)  # type: ignore[no-untyped-call]
        return summed

    def least(self, tensor: Tensor) -> Tensor:
        """The elementwise minimum over all processes."""
        if self.world == 1:
            return tensor
        least = tensor.clone()
        distributed.all_reduce(least, op=distributed.ReduceOp.MIN)
        return least

    def most(self, tensor: Tensor) -> Tensor:
        """The largest over all processes."""
        return -self.least(-tensor)

    def gather(self, tensor: Tensor) -> Tensor:
        """Concatenate equally shaped tensors of all processes along dimension 0, in rank order."""
        return tensor if self.world == 1 else torch.cat(_gathered(tensor, self.world, None))

    def gather_for_harvest(self, tensor: Tensor) -> Tensor:
        """Like `gather`, but for the harvesting thread and on the CPU."""
        if self.world == 1:
            return tensor.cpu()
        return torch.cat(_gathered(tensor.cpu(), self.world, self.data_group))

    def gather_shards(self, tensor: Tensor, dim: int = 0) -> Tensor:
        """Concatenate equally shaped tensors of this replica's shards along `dim`."""
        if self.num_shards == 1:
            return tensor
        return torch.cat(_gathered(tensor, self.num_shards, self.shard_group), dim=dim)

    def gather_rows(self, rows_BX: Tensor) -> Tensor:
        """Concatenate the rows of this replica's shards in rank order; shards may have different numbers of rows."""
        if self.num_shards == 1:
            return rows_BX
        # Gathering needs equal shapes, so exchange the counts first, pad to the largest, and cut the padding off again.
        counts = self.gather_shards(torch.tensor([len(rows_BX)], device=rows_BX.device)).tolist()
        padded_BX = rows_BX.new_zeros(max(counts), rows_BX.shape[1])
        padded_BX[: len(rows_BX)] = rows_BX
        parts = _gathered(padded_BX, self.num_shards, self.shard_group)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    def wait_for_shards(self) -> None:
        """Barrier over the shards of this replica."""
        if self.num_shards > 1:
            distributed.barrier(group=self.shard_group)

    def wait(self) -> None:
        """Barrier over all processes."""
        if self.world > 1:
            distributed.barrier()


class _SumOverShards(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, processes: Processes) -> Tensor:
        return processes.over_shards(tensor)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        # Every shard computes the same loss from the sum and so has the same gradient already. Summing these, as the
        # gradient of an all-reduce usually does, would count the loss once for each shard.
        return grad, None


ALONE = Processes()
"""The default: a run of a single process."""


def _summed(tensor: Tensor, group: distributed.ProcessGroup | None) -> Tensor:
    # `all_reduce` works in place; callers keep their tensor.
    total = tensor.clone()
    distributed.all_reduce(total, group=group)
    return total


def _gathered(tensor: Tensor, count: int, group: distributed.ProcessGroup | None) -> list[Tensor]:
    parts = [torch.empty_like(tensor) for _ in range(count)]
    distributed.all_gather(parts, tensor.contiguous(), group=group)
    return parts
