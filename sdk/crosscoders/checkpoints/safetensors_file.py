"""Safetensors files of other libraries: the header is checked here, and the data are read by position."""

from __future__ import annotations

import json
import math
from typing import Any

import torch

from ..errors import CheckpointError
from .file_bytes import Bytes, FileData, reader
from .stored import StoredTensor, TensorFile

DTYPES = {
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


def safetensors_file(file: Bytes) -> TensorFile:
    """The tensors of a file; of one that is elsewhere only the header is fetched."""
    header, start = _header(file)
    header.pop("__metadata__", None)
    tensors, spans = {}, []
    for name, entry in header.items():
        dtype, shape, begin, end = _entry(file, name, entry)
        tensors[name] = dtype, shape, begin
        spans.append((begin, end, name))
    last = 0
    for begin, end, name in sorted(spans):
        if begin != last:
            raise CheckpointError(f"{file.name} is damaged: the bytes of '{name}' overlap with others, or leave a gap")
        last = end
    data = FileData(file, start + last)
    return TensorFile(
        file.name,
        {
            name: StoredTensor(name, shape, dtype, file.name, reader(data, start + begin, shape, dtype))
            for name, (dtype, shape, begin) in sorted(tensors.items())
        },
    )


def _header(file: Bytes) -> tuple[dict[str, Any], int]:
    """The header, and where the data begin."""
    try:
        length = int.from_bytes(file.read(0, 8), "little")
        if not 0 < length <= LARGEST_HEADER:
            raise CheckpointError(f"{file.name} is damaged or incomplete: it begins with a header of {length} bytes")
        header = json.loads(file.read(8, length))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file.name} is damaged or incomplete: {error}") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{file.name} is damaged: its header is not a table")
    return header, 8 + length


def _entry(file: Bytes, name: str, entry: Any) -> tuple[torch.dtype, tuple[int, ...], int, int]:
    """Type, shape, first byte and last of a tensor."""
    try:
        dtype, shape = DTYPES[entry["dtype"]], tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        whole = all(type(number) is int and number >= 0 for number in (*shape, begin, end))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file.name} is damaged: its header says {entry!r} of '{name}'") from error
    if not whole or end - begin != math.prod(shape) * dtype.itemsize:
        raise CheckpointError(f"{file.name} is damaged: '{name}' of shape {shape} is said to take {end - begin} bytes")
    return dtype, shape, begin, end
