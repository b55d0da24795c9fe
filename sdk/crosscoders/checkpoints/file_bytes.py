"""Bytes of foreign files, read by position, so that no mapped page and no second copy stays in memory."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError
from .stored import Index

SMALL_PIECE = 1_000_000
"""Bytes of a tensor that are worth asking for alone, such as a scale or an offset of each latent, where the file is not
here yet."""


class Bytes(ABC):
    """Where a file's bytes are; a `piece` may come over a network, `path` is here."""

    name: str

    @abstractmethod
    def path(self) -> Path:
        """The file on this machine, fetched if need be."""

    def piece(self, start: int, length: int) -> bytes | None:
        """Some bytes, where they can be had without fetching the file; else None."""
        return None

    def read(self, start: int, length: int) -> bytes:
        """Some bytes, from wherever they can be had; fewer where the file ends."""
        found = self.piece(start, length)
        if found is None:
            with self.path().open("rb") as stream:
                stream.seek(start)
                found = stream.read(length)
        return found


class FileData:
    """A file's data, opened when the first piece is read; `size` is what the file should have, -1 for any."""

    def __init__(self, file: Bytes, size: int = -1) -> None:
        self._file, self._size, self._descriptor = file, size, -1

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def read(self, offset: int, into: memoryview) -> None:
        """Fill a buffer; `CheckpointError` where the file is too short."""
        if self._descriptor < 0:
            small = self._file.piece(offset, len(into)) if len(into) <= SMALL_PIECE else None
            if small is not None and len(small) == len(into):
                into[:] = small
                return
            self._descriptor = self._open()
        done = 0
        while done < len(into):
            count = os.preadv(self._descriptor, [into[done:]], offset + done)
            if not count:
                raise CheckpointError(f"{self._file.name} is damaged or incomplete: it ends too early")
            done += count

    def _open(self) -> int:
        descriptor = os.open(self._file.path(), os.O_RDONLY)
        size = os.fstat(descriptor).st_size
        if self._size not in (-1, size):
            os.close(descriptor)
            raise CheckpointError(
                f"{self._file.name} is damaged or incomplete: it has {size} bytes, not the {self._size} it says"
            )
        return descriptor


def reader(
    data: FileData, begin: int, shape: Sequence[int], dtype: torch.dtype, strides: Sequence[int] | None = None
) -> Callable[[Index], Tensor]:
    """Reads parts of a tensor that lies at byte `begin`, row by row or, with `strides`, in any other order of axes."""
    dense = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    strides = dense if strides is None else list(strides)
    order = sorted(range(len(shape)), key=lambda axis: -strides[axis])
    sizes = [shape[axis] for axis in order]
    steps = [math.prod(sizes[axis + 1 :]) for axis in range(len(sizes))]
    scattered = any(strides[axis] != step for axis, step in zip(order, steps, strict=True) if shape[axis] != 1)

    def read(index: Index) -> Tensor:
        if scattered:
            span = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
            flat = _block(data, begin, [range(span)], [1], [span], dtype)
            return flat.as_strided(tuple(shape), tuple(strides))[index] if index else flat[0]
        ranges = [
            range(part, part + 1) if isinstance(part, int) else range(*part.indices(size))
            for part, size in zip(index, shape, strict=True)
        ]
        found = _block(data, begin, [ranges[axis] for axis in order], steps, sizes, dtype)
        found = found.permute(tuple(order.index(axis) for axis in range(len(order))))
        return found[tuple(0 if isinstance(part, int) else slice(None) for part in index)] if index else found

    return read


def _block(
    data: FileData, begin: int, ranges: list[range], steps: list[int], sizes: list[int], dtype: torch.dtype
) -> Tensor:
    """A block of a dense tensor, by as few reads as there are runs of neighbouring numbers."""
    out = torch.empty(tuple(len(part) for part in ranges), dtype=dtype)
    if not out.numel():
        return out
    # The longest tail of whole axes is one run in the file, and so is what is taken of the axis before it.
    axis = len(sizes)
    while axis and len(ranges[axis - 1]) == sizes[axis - 1]:
        axis -= 1
    axis = max(axis - 1, 0)
    length = math.prod(len(part) for part in ranges[axis:]) * dtype.itemsize
    view = memoryview(out.view(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
    for number, outer in enumerate(product(*ranges[:axis])):
        first = sum(place * step for place, step in zip(outer, steps, strict=False))
        first += ranges[axis].start * steps[axis] if ranges else 0
        data.read(begin + first * dtype.itemsize, view[number * length : (number + 1) * length])
    return out
