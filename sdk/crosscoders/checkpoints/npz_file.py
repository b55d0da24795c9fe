"""`.npz` files, without pickle: arrays are read by position, and compressed ones unpacked onto the disk first."""

from __future__ import annotations

import math
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import CheckpointError
from .file_bytes import Bytes, FileData, reader
from .stored import Index, StoredTensor, TensorFile

MOST_TIMES = 20
"""How many times its own size a file may unpack to; weights hardly get smaller by packing."""
SLACK = 10_000_000
LOCAL_HEADER = 30
"""Bytes of an entry's header in a zip file, before its name."""


def npz_file(file: Bytes) -> TensorFile:
    """The arrays of a `.npz` file."""
    path = file.path()
    tensors = {}
    try:
        size = path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            unpacked = sum(entry.file_size for entry in entries)
            if unpacked > MOST_TIMES * size + SLACK:
                raise CheckpointError(f"{file.name} has {size} bytes and unpacks to {unpacked}, which no weights do")
            for entry in entries:
                name = entry.filename.removesuffix(".npy")
                with archive.open(entry) as stream:
                    shape, dtype, fortran = _header(file, entry.filename, stream)
                    start = stream.tell()
                if start + math.prod(shape) * dtype.itemsize != entry.file_size:
                    raise CheckpointError(
                        f"{file.name} is damaged: '{name}' of shape {shape} is said to take {entry.file_size} bytes"
                    )
                strides = [math.prod(shape[:axis]) for axis in range(len(shape))] if fortran else None
                tensors[name] = StoredTensor(
                    name, shape, dtype, file.name, _read(file, path, entry, start, shape, dtype, strides)
                )
    except (OSError, ValueError, TypeError, NotImplementedError, RuntimeError, zipfile.BadZipFile) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{file.name} is damaged or incomplete: {error}") from error
    return TensorFile(file.name, tensors)


def _header(file: Bytes, entry: str, stream: IO[bytes]) -> tuple[tuple[int, ...], torch.dtype, bool]:
    """Shape, type, and whether columns lie together instead of rows."""
    version = np.lib.format.read_magic(stream)
    headers: dict[Any, Any] = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in headers:
        raise CheckpointError(f"{file.name} has '{entry}' in the unknown version {version}")
    shape, fortran, dtype = headers[version](stream)
    if dtype.hasobject:
        raise CheckpointError(f"{file.name} holds Python objects in '{entry}', which are never read")
    return tuple(shape), torch.from_numpy(np.empty(0, dtype)).dtype, bool(fortran)


def _read(
    file: Bytes,
    path: Path,
    entry: zipfile.ZipInfo,
    start: int,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    strides: list[int] | None,
) -> Callable[[Index], Tensor]:
    if entry.compress_type == zipfile.ZIP_STORED:
        with path.open("rb") as stream:
            stream.seek(entry.header_offset)
            local = stream.read(LOCAL_HEADER)
        # The name and what follows it may be longer here than in the directory at the end of the file.
        begin = entry.header_offset + LOCAL_HEADER + sum(int.from_bytes(local[i : i + 2], "little") for i in (26, 28))
        return reader(FileData(file), begin + start, shape, dtype, strides)
    kept: list[Callable[[Index], Tensor]] = []

    def read(index: Index) -> Tensor:
        if not kept:
            kept.append(reader(FileData(_unpacked(path, entry, file.name)), start, shape, dtype, strides))
        return kept[0](index)

    return read


class _Unpacked(Bytes):
    """A file that is gone when nobody reads it any more."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.file = tempfile.NamedTemporaryFile(prefix="crosscoders-")  # noqa: SIM115 - kept open while it is read

    def __del__(self) -> None:
        self.file.close()

    def path(self) -> Path:
        return Path(self.file.name)


def _unpacked(path: Path, entry: zipfile.ZipInfo, name: str) -> Bytes:
    found = _Unpacked(name)
    try:
        with zipfile.ZipFile(path) as archive, archive.open(entry) as stream:
            while piece := stream.read(2**20):
                found.file.write(piece)
    except (OSError, zipfile.BadZipFile, RuntimeError) as error:
        raise CheckpointError(f"{name} is damaged or incomplete: {error}") from error
    found.file.flush()
    return found
