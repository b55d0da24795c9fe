"""Weights in the Hub's ordinary form, whole tensors in one file or several with an index, written from parts by pieces.

Processes that share latents save a part of the tensors each; other libraries, and the Hub's own client, expect them
whole. Nothing is held but some rows at a time.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from attrs import frozen
from safetensors import safe_open
from torch import Tensor

from ..errors import CheckpointError
from ..files import disk_errors
from .file_bytes import Bytes
from .safetensors_file import DTYPES, safetensors_file
from .stored import StoredTensor, TensorFile
from .tensors import StoredTensors, rows_of

PIECE_BYTES = 8_000_000
LARGEST_FILE = 5_000_000_000
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class _Local(Bytes):
    def __init__(self, path: Path) -> None:
        self.name, self._path = path.name, path

    def path(self) -> Path:
        return self._path


@frozen
class _Whole:
    """One tensor: what it will be, and which rows of which part it is made of, in order."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    rows: tuple[tuple[StoredTensor, int, int], ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def pieces(self) -> Iterator[Tensor]:
        """All of it, some rows at a time."""
        for stored, start, stop in self.rows:
            yield from _pieces(stored, start, stop)


def write_whole(
    stored: StoredTensors,
    sizes: Sequence[int],
    sharding: Mapping[str, str],
    target: Path,
    *,
    largest_file: int = LARGEST_FILE,
) -> None:
    """Write the tensors of a checkpoint whole; `sizes` are the latents of its groups, `sharding` says how it is split.

    `CheckpointError` where a part is not what its checksum says.
    """
    parts = [safetensors_file(_Local(stored.part(number))) for number in range(stored.count)]
    for number, part in enumerate(parts):
        _check(part, stored.part(number))
    batches = _batched(_wholes(parts, sizes, {**sharding, **stored.sharding}), largest_file)
    count = len(batches)
    placed: dict[str, str] = {}
    for number, batch in enumerate(batches, start=1):
        file_name = (
            f"{stored.name}.safetensors" if count == 1 else f"{stored.name}-{number:05d}-of-{count:05d}.safetensors"
        )
        _write(batch, target / file_name)
        placed |= {whole.name: file_name for whole in batch}
    if count > 1:
        total = sum(whole.size for batch in batches for whole in batch)
        index = {"metadata": {"total_size": total}, "weight_map": placed}
        (target / f"{stored.name}.safetensors.index.json").write_text(json.dumps(index, indent=1))


def _wholes(parts: Sequence[TensorFile], sizes: Sequence[int], sharding: Mapping[str, str]) -> list[_Whole]:
    wholes = []
    for name, first in parts[0].items():
        kind = sharding.get(name) if first.shape and len(parts) > 1 else None
        split = [part[name] for part in parts] if kind else [first]
        count = sum(one.shape[0] for one in split) if first.shape else 0
        rows = [(first, 0, count)]
        if kind:
            lengths = sizes if kind == "latents" else [count]
            rows = [(split[number], start, stop) for number, start, stop in rows_of(lengths, len(parts), 0, 1)]
        wholes.append(_Whole(name, (count, *first.shape[1:]) if first.shape else (), first.dtype, tuple(rows)))
    return wholes


def _batched(wholes: Sequence[_Whole], largest: int) -> list[list[_Whole]]:
    batches: list[list[_Whole]] = [[]]
    for whole in wholes:
        if batches[-1] and sum(one.size for one in batches[-1]) + whole.size > largest:
            batches.append([])
        batches[-1].append(whole)
    return batches


def _write(batch: Sequence[_Whole], path: Path) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for whole in batch:
        header[whole.name] = {"dtype": _NAMES[whole.dtype], "shape": whole.shape, "data_offsets": [at, at + whole.size]}
        at += whole.size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with disk_errors(path), path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for whole in batch:
            for piece in whole.pieces():
                file.write(_bytes(piece))


def _check(part: TensorFile, path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        expected = (file.metadata() or {}).get("sha256")
    if expected is None:
        return
    digest = hashlib.sha256()
    for name in sorted(part):
        digest.update(f"{name} {part[name].dtype} {part[name].shape}\n".encode())
        for piece in _pieces(part[name], 0, part[name].shape[0] if part[name].shape else 0):
            digest.update(_bytes(piece))
    if digest.hexdigest() != expected:
        raise CheckpointError(f"{path} is damaged: its tensors are not those of its checksum")


def _pieces(stored: StoredTensor, start: int, stop: int) -> Iterator[Tensor]:
    if not stored.shape:
        yield stored.read(())
        return
    step = max(1, PIECE_BYTES // max(1, math.prod(stored.shape[1:]) * stored.dtype.itemsize))
    rest = tuple(slice(0, size) for size in stored.shape[1:])
    for begin in range(start, stop, step):
        yield stored.read((slice(begin, min(begin + step, stop)), *rest))


def _bytes(piece: Tensor) -> memoryview:
    return memoryview(piece.contiguous().reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
