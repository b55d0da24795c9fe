"""Tensors in other people's files, described by their headers and read by pieces. No pickle is ever run.

A `TensorFile` maps names to `StoredTensor`s; indexing one gives a `View`, of which `rows` reads some rows only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from attrs import field, frozen
from torch import Tensor

from ..errors import CheckpointError

Index = tuple[int | slice, ...]


@frozen(eq=False)
class StoredTensor:
    """One tensor of a file: what its header says, and `read`, which reads a part of it."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    file: str
    """The file it is in, for messages."""
    read: Callable[[Index], Tensor]

    def __getitem__(self, index: int | slice | Index) -> View:
        return View(self)[index]

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def T(self) -> View:
        """The transposed view of a matrix."""
        return View(self).T

    def load(self) -> Tensor:
        """All of it, floats in fp32; `CheckpointError` for NaN or infinite values."""
        return View(self).load()

    def item(self) -> Any:
        """The value of a scalar, as it is; `CheckpointError` if it is something else."""
        if math.prod(self.shape) != 1 or self.dtype.is_complex:
            raise CheckpointError(
                f"'{self.name}' in {self.file} is {self.dtype} of shape {self.shape}, where one number is needed"
            )
        return self.read(tuple(slice(0, size) for size in self.shape)).item()


@frozen(eq=False)
class View:
    """A vector or a matrix inside a stored tensor, transposed if need be; nothing is read before `rows` or `load`."""

    stored: StoredTensor
    index: Index = field()
    transposed: bool = False
    row_factor: Callable[[], Tensor] | None = None
    column_factor: Callable[[], Tensor] | None = None

    @index.default
    def _whole(self) -> Index:
        return tuple(slice(0, size) for size in self.stored.shape)

    @property
    def free(self) -> list[int]:
        """The axes of the stored tensor that the view has."""
        return [axis for axis, part in enumerate(self.index) if isinstance(part, slice)]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the view."""
        sizes = [part.stop - part.start for part in self.index if isinstance(part, slice)]
        return tuple(reversed(sizes) if self.transposed else sizes)

    @property
    def label(self) -> str:
        """The tensor and its file, for messages."""
        return f"'{self.stored.name}' in {self.stored.file}"

    def __getitem__(self, index: int | slice | Index) -> View:
        """Fix axes by numbers, or narrow them by slices, as of a tensor."""
        assert not self.transposed, "index first, then transpose"
        parts = list(self.index)
        for axis, part in zip(self.free, index if isinstance(index, tuple) else (index,), strict=False):
            before = parts[axis]
            assert isinstance(before, slice)
            start, stop, _ = (slice(part, part + 1) if isinstance(part, int) else part).indices(
                before.stop - before.start
            )
            parts[axis] = (
                before.start + part if isinstance(part, int) else slice(before.start + start, before.start + stop)
            )
        return View(self.stored, tuple(parts))

    @property
    def T(self) -> View:
        """The transposed matrix."""
        if len(self.shape) != 2:
            raise CheckpointError(f"{self.label} has a part of shape {self.shape}, where a matrix is needed")
        return View(self.stored, self.index, not self.transposed, self.column_factor, self.row_factor)

    def scaled(self, *, rows: Callable[[], Tensor] | None = None, columns: Callable[[], Tensor] | None = None) -> View:
        """The view with each row, or each column, multiplied by a number."""
        return View(self.stored, self.index, self.transposed, rows or self.row_factor, columns or self.column_factor)

    def rows(self, start: int, stop: int) -> Tensor:
        """Some rows in fp32 (entries, of a vector); `CheckpointError` for NaN or infinite values."""
        self.check_type()
        if not self.free:
            raise CheckpointError(f"{self.label} is one number, where several are needed")
        axis = self.free[-1 if self.transposed else 0]
        whole = self.index[axis]
        assert isinstance(whole, slice)
        index = list(self.index)
        index[axis] = slice(whole.start + start, whole.start + stop)
        part = self.stored.read(tuple(index))
        part = (part.T if self.transposed else part).float()
        wrong = int((~torch.isfinite(part)).sum())
        if wrong:
            raise CheckpointError(f"{self.label} has {wrong} values that are NaN or infinite")
        if self.row_factor is not None:
            part = part * self.row_factor()[start:stop, None]
        if self.column_factor is not None:
            part = part * self.column_factor()
        return part

    def check_type(self) -> None:
        """`CheckpointError` unless it is of floating-point numbers."""
        if not self.stored.dtype.is_floating_point:
            raise CheckpointError(f"{self.label} is {self.stored.dtype}, where floating-point numbers are needed")

    def load(self) -> Tensor:
        """All of it in fp32."""
        self.check_type()
        if not self.free:
            return _finite(self.stored.read(self.index).float(), self.label)
        return self.rows(0, self.shape[0])


def _finite(value: Tensor, label: str) -> Tensor:
    if not bool(torch.isfinite(value)):
        raise CheckpointError(f"{label} is {value.item()}")
    return value


class TensorFile(Mapping[str, StoredTensor]):
    """The tensors of one file by name, in a fixed order; `notes` says what was unwrapped or stripped."""

    def __init__(self, path: str, tensors: Mapping[str, StoredTensor], extras: Mapping[str, Any] | None = None) -> None:
        self.path, self._tensors, self.extras = path, dict(tensors), dict(extras or {})
        self.notes: list[str] = []
        self._strip_compiled()

    def __getitem__(self, name: str) -> StoredTensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of a tensor, None if it is not there."""
        return self._tensors[name].shape if name in self._tensors else None

    def shape_of(self, name: str, axes: int) -> tuple[int, ...]:
        """The shape of a tensor of so many axes, none of them empty; `CheckpointError` for any other."""
        if name not in self:
            raise CheckpointError(f"{self.path} has no tensor '{name}'")
        if len(self[name].shape) != axes or 0 in self[name].shape:
            raise CheckpointError(
                f"'{name}' in {self.path} has shape {self[name].shape}, where {axes} axes that are not empty are needed"
            )
        return self[name].shape

    def matrix(self, name: str) -> tuple[int, int]:
        """The shape of a matrix; `CheckpointError` for anything else."""
        rows, columns = self.shape_of(name, 2)
        return rows, columns

    def take(self, *allowed: str, optional: tuple[str, ...] = ()) -> None:
        """`CheckpointError` unless the file has exactly the tensors `allowed`, and perhaps the `optional` ones."""
        missing = [name for name in allowed if name not in self]
        unknown = sorted(set(self) - set(allowed) - set(optional))
        problems = [f"no tensor '{name}'" for name in missing] + [f"an unknown tensor '{name}'" for name in unknown]
        if problems:
            raise CheckpointError(f"{self.path} has {', '.join(problems)}")

    def expect(self, shapes: Mapping[str, tuple[int, ...]], why: str) -> None:
        """`CheckpointError` unless these tensors have these shapes, which `why` asks for."""
        for name, shape in shapes.items():
            if self[name].shape != shape:
                raise CheckpointError(f"'{name}' in {self.path} has shape {self[name].shape}, but {why} means {shape}")

    def _strip_compiled(self) -> None:
        prefix = "_orig_mod."
        marked = [name for name in self._tensors if name.startswith(prefix)]
        if not marked:
            return
        if len(marked) < len(self._tensors):
            raise CheckpointError(
                f"{self.path} has the prefix '{prefix}' of torch.compile on {len(marked)} of {len(self)} tensors only"
            )
        self._tensors = {name.removeprefix(prefix): tensor for name, tensor in self._tensors.items()}
        self.notes.append(f"the prefix '{prefix}' of torch.compile was taken off every name in {self.path}")
