"""`.pt` files: shapes by torch's restricted reader, without data, and data by position. No pickle is ever run."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from .file_bytes import Bytes, FileData, reader
from .stored import Index, StoredTensor, TensorFile

LARGEST_PICKLE = 100_000_000
"""Bytes of the description of the tensors, which is read whole."""
MOST_TIMES = 2
"""How many times the file's bytes the tensors may take, where two names share a tensor."""
SLACK = 1_000_000
"""Bytes that they may take beyond it, for small ones that repeat a number."""


def pickled_file(file: Bytes) -> TensorFile:
    """The tensors of a `.pt` file, by name; anything else in it is refused."""
    path = file.path()
    archive = _is_archive(file, path)
    content = _loaded(file, path, map_location="meta" if archive else "cpu")
    if archive and _without_places(content):
        content = _loaded(file, path, map_location="cpu", mmap=True)
    if not isinstance(content, dict):
        raise CheckpointError(f"{file.name} holds a {type(content).__name__}, not tensors by name")
    notes = []
    inner = [key for key, value in content.items() if _are_tensors(value)]
    if len(inner) == 1 and not any(isinstance(value, Tensor) and value.dim() for value in content.values()):
        notes.append(f"the tensors lay under '{inner[0]}' in {file.name}")
        content = content[inner[0]]
    found = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    total, size = sum(value.numel() * value.dtype.itemsize for value in found.values()), path.stat().st_size
    if total > MOST_TIMES * size + SLACK:
        raise CheckpointError(f"{file.name} is said to hold {total} bytes of tensors, and has {size} bytes")
    data = FileData(file)
    tensors = {
        name: StoredTensor(name, tuple(value.shape), value.dtype, file.name, _read(data, value, size, file.name))
        for name, value in found.items()
    }
    others = {str(name): value for name, value in content.items() if not isinstance(value, Tensor)}
    made = TensorFile(file.name, tensors, others)
    made.notes += notes
    return made


def _is_archive(file: Bytes, path: Path) -> bool:
    """Whether it is a zip file, as torch has written since 1.6; older files can only be read whole."""
    if zipfile.is_zipfile(path):
        _check_archive(file, path)
        return True
    with path.open("rb") as stream:
        if stream.read(2) != b"\x80\x02":
            raise CheckpointError(f"{file.name} is damaged or incomplete, or not a file of torch.save")
    return False


def _loaded(file: Bytes, path: Path, **how: Any) -> Any:
    """What the file holds. On the meta device torch notes where in the file the data of each tensor lie."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, weights_only=True, **how)
    except Exception as error:  # the reader raises what it likes; none of it has run the file's code
        raise CheckpointError(_why_refused(file.name, path, error)) from error


def _without_places(content: Any) -> bool:
    """Whether this version of torch does not note them."""
    if isinstance(content, dict):
        return any(map(_without_places, content.values()))
    plain = isinstance(content, Tensor) and content.layout == torch.strided
    return plain and not hasattr(content.untyped_storage(), "_checkpoint_offset")


def _check_archive(file: Bytes, path: Path) -> None:
    """Torch never compresses, so what is packed here would only unpack to more than the file is."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{file.name} is damaged or incomplete: {error}") from error
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise CheckpointError(f"{file.name} is not a file of torch.save: '{entry.filename}' in it is compressed")
        if entry.filename.endswith("data.pkl") and entry.file_size > LARGEST_PICKLE:
            raise CheckpointError(f"{file.name} describes its tensors in {entry.file_size} bytes, which is too many")


def _read(data: FileData, value: Tensor, size: int, name: str) -> Callable[[Index], Tensor]:
    if value.layout != torch.strided:
        raise CheckpointError(f"{name} holds a tensor of the kind {value.layout}, which no weights are")
    if not value.is_meta:
        return lambda index: value[index] if index else value
    storage: Any = value.untyped_storage()
    begin = int(storage._checkpoint_offset)
    if begin + storage.nbytes() > size:
        raise CheckpointError(f"{name} is damaged or incomplete: tensors go beyond its {size} bytes")
    first = begin + int(value.storage_offset()) * value.dtype.itemsize
    return reader(data, first, tuple(value.shape), value.dtype, value.stride())


def _are_tensors(value: object) -> bool:
    return isinstance(value, dict) and bool(value) and any(isinstance(item, Tensor) for item in value.values())


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
