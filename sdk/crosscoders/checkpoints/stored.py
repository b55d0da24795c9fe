"""Tensors in other people's files, described by their headers and read by pieces. No pickle is ever run.

A `TensorFile` maps names to `StoredTensor`s; indexing one gives a `View`, of which `rows` reads some rows only.
"""

from __future__ import annotations

import json
import math
import os
import re
import warnings
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import field, frozen
from torch import Tensor

from ..errors import CheckpointError

SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
LARGEST_HEADER = 100_000_000
SMALL_PIECE = 100_000
"""Bytes of a tensor that are worth asking for alone, such as a scale, where the file is not here yet."""
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


class Bytes(ABC):
    """Where a file's bytes are; `head` may come over a network, `path` is here."""

    name: str

    @abstractmethod
    def path(self) -> Path:
        """The file on this machine, fetched if need be."""

    def piece(self, start: int, length: int) -> bytes | None:
        """Some bytes, where they can be had without fetching the file; else None."""
        return None


def read_header(file: Bytes) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file, and where its data begins; of a file elsewhere only these bytes are fetched."""
    try:
        length = int.from_bytes(_bytes(file, 0, 8), "little")
        if not 0 < length <= LARGEST_HEADER:
            raise CheckpointError(f"{file.name} is damaged or incomplete: it begins with a header of {length} bytes")
        header = json.loads(_bytes(file, 8, length))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file.name} is damaged or incomplete: {error}") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{file.name} is damaged: its header is not a table")
    return header, 8 + length


def _bytes(file: Bytes, start: int, length: int) -> bytes:
    found = file.piece(start, length)
    if found is None:
        with file.path().open("rb") as stream:
            stream.seek(start)
            found = stream.read(length)
    return found


def safetensors_file(file: Bytes) -> TensorFile:
    """The tensors of a safetensors file. Data are read by position, so that no mapped page stays in memory."""
    header, data_start = read_header(file)
    header.pop("__metadata__", None)

    class Data:
        """Opened when the first piece is read, with its size compared to the header's."""

        descriptor: int | None = None

        def __del__(self) -> None:
            if self.descriptor is not None:
                os.close(self.descriptor)

        def read(self, offset: int, length: int, into: memoryview) -> None:
            if self.descriptor is None and length <= SMALL_PIECE:
                piece = file.piece(data_start + offset, length)
                if piece is not None and len(piece) == length:
                    into[:] = piece
                    return
            if self.descriptor is None:
                path = file.path()
                end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
                self.descriptor = os.open(path, os.O_RDONLY)
                size = os.fstat(self.descriptor).st_size
                if size != data_start + end:
                    raise CheckpointError(
                        f"{file.name} is damaged or incomplete: it has {size} bytes, not the {data_start + end} it says"
                    )
            done = 0
            while done < length:
                count = os.preadv(self.descriptor, [into[done:]], data_start + offset + done)
                if not count:
                    raise CheckpointError(f"{file.name} ends too early")
                done += count

    data = Data()
    tensors = {}
    for name, entry in header.items():
        try:
            dtype, shape = SAFETENSORS_DTYPES[entry["dtype"]], tuple(int(size) for size in entry["shape"])
            begin, end = entry["data_offsets"]
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{file.name} is damaged: its header says {entry!r} of '{name}'") from error
        if any(size < 0 for size in shape) or end - begin != math.prod(shape) * dtype.itemsize or begin < 0:
            raise CheckpointError(
                f"{file.name} is damaged: '{name}' of shape {shape} is said to take {end - begin} bytes"
            )
        tensors[name] = StoredTensor(name, shape, dtype, file.name, _by_position(data, begin, shape, dtype))
    return TensorFile(file.name, dict(sorted(tensors.items())))


def _by_position(data: Any, begin: int, shape: tuple[int, ...], dtype: torch.dtype) -> Callable[[Index], Tensor]:
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]

    def read(index: Index) -> Tensor:
        ranges = [
            range(part, part + 1) if isinstance(part, int) else range(*part.indices(size))
            for part, size in zip(index, shape, strict=True)
        ]
        # The longest tail of whole axes is one run in the file, and so is what is taken of the axis before it.
        axis = len(shape)
        while axis and len(ranges[axis - 1]) == shape[axis - 1]:
            axis -= 1
        axis = max(axis - 1, 0)
        run = math.prod(len(r) for r in ranges[axis:])
        out = torch.empty(tuple(len(r) for r in ranges), dtype=dtype)
        if not out.numel():
            return out.view(tuple(len(r) for r, part in zip(ranges, index, strict=True) if isinstance(part, slice)))
        view = memoryview(out.view(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
        length, at = run * dtype.itemsize, 0
        for outer in product(*ranges[:axis]):
            first = sum(i * s for i, s in zip(outer, strides, strict=False))
            first += ranges[axis].start * strides[axis] if ranges else 0
            data.read(begin + first * dtype.itemsize, length, view[at : at + length])
            at += length
        return out.view(tuple(len(r) for r, part in zip(ranges, index, strict=True) if isinstance(part, slice)))

    return read


def pickled_file(file: Bytes) -> TensorFile:
    """The tensors of a `.pt` file, by torch's restricted reader, memory-mapped; anything else is refused."""
    path = file.path()
    if not zipfile.is_zipfile(path):
        with path.open("rb") as stream:
            old = stream.read(2) == b"\x80\x02"  # torch before 1.6
        if not old:
            raise CheckpointError(f"{file.name} is damaged or incomplete, or no file of torch.save")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, weights_only=True, mmap=zipfile.is_zipfile(path), map_location="cpu")
    except Exception as error:  # the reader raises what it likes; none of it has run the file's code
        raise CheckpointError(_why_refused(file.name, path, error)) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file.name} holds a {type(content).__name__}, not tensors by name")
    notes = []
    inner = [key for key, value in content.items() if _are_tensors(value)]
    if len(inner) == 1 and not any(isinstance(value, Tensor) and value.dim() for value in content.values()):
        notes.append(f"the tensors lay under '{inner[0]}' in {file.name}")
        content = content[inner[0]]
    tensors = {
        str(name): StoredTensor(str(name), tuple(value.shape), value.dtype, file.name, _from_memory(value))
        for name, value in content.items()
        if isinstance(value, Tensor)
    }
    found = TensorFile(
        file.name, tensors, {str(name): value for name, value in content.items() if not isinstance(value, Tensor)}
    )
    found.notes += notes
    return found


def _are_tensors(value: object) -> bool:
    return isinstance(value, dict) and bool(value) and any(isinstance(item, Tensor) for item in value.values())


def _from_memory(value: Tensor) -> Callable[[Index], Tensor]:
    return lambda index: value[index] if index else value


def _why_refused(name: str, path: Path, error: Exception) -> str:
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    what = found.group(1) if found else ""
    if not what:
        try:
            what = ", ".join(torch.serialization.get_unsafe_globals_in_checkpoint(path))
        except Exception:
            what = ""
    if what:
        return (
            f"{name} holds more than tensors: its pickle asks for '{what}', which is never run or made here; ask "
            "its author for a file of tensors alone (safetensors)"
        )
    return f"{name} cannot be read: {str(error).splitlines()[0] if str(error) else type(error).__name__}"


def npz_file(file: Bytes) -> TensorFile:
    """The arrays of a `.npz` file, without pickle."""
    path = file.path()
    tensors = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.namelist():
                with archive.open(entry) as stream:
                    version = np.lib.format.read_magic(stream)
                    reader = (
                        np.lib.format.read_array_header_1_0
                        if version == (1, 0)
                        else np.lib.format.read_array_header_2_0
                    )
                    shape, _, dtype = reader(stream)
                if dtype.hasobject:
                    raise CheckpointError(f"{file.name} holds Python objects in '{entry}', which are never read")
                name = entry.removesuffix(".npy")
                kind = torch.from_numpy(np.empty(0, dtype)).dtype
                tensors[name] = StoredTensor(name, tuple(shape), kind, file.name, _from_npz(path, name))
    except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{file.name} is damaged or incomplete: {error}") from error
    return TensorFile(file.name, tensors)


def _from_npz(path: Path, name: str) -> Callable[[Index], Tensor]:
    kept: list[Tensor] = []  # an array is compressed as one, so it is read once

    def read(index: Index) -> Tensor:
        if not kept:
            with np.load(path, allow_pickle=False) as arrays:
                kept.append(torch.from_numpy(arrays[name]))
        return kept[0][index] if index else kept[0]

    return read
