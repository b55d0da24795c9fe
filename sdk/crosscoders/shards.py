"""Tensors on disk in one file or in several, one of each process that holds a part of the latents.

`NAME.safetensors`, or `NAME-00001-of-00004.safetensors` … and `NAME.safetensors.index.json`. The index says which
tensors are parted and how: `group` has rows of one latent group, of which file s of S holds the s-th part; `latents`
has a row for each latent of all groups, parted group by group; all others are in each file alike.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import CheckpointError
from .files import whole_folder
from .processes import ALONE, Processes


@contextmanager
def shared_folder(target: Path, processes: Processes) -> Iterator[Path]:
    """`whole_folder` that the shards of a replica write into together: each of them comes here."""
    if processes.num_shards == 1:
        with whole_folder(target) as partial:
            yield partial
        return
    meeting = target.parent / f".partial-{target.name}-shards"
    if processes.shard == 0:
        with whole_folder(target, partial=meeting) as partial:
            processes.wait_for_shards()
            yield partial
            processes.wait_for_shards()
    else:
        processes.wait_for_shards()
        yield meeting
        processes.wait_for_shards()
    processes.wait_for_shards()


def save_tensors(
    folder: Path, name: str, tensors: Mapping[str, Tensor], rows: Mapping[str, str], processes: Processes = ALONE
) -> None:
    """Write this process's `tensors`; `rows` tells which of them are parted, as in the module's description."""
    count = processes.num_shards
    plain = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    save_file(plain, folder / _file(name, processes.shard, count), metadata={"format": "pt"})
    if count > 1 and processes.shard == 0:
        index = {"shards": count, "rows": {key: rows[key] for key in tensors if key in rows}}
        (folder / f"{name}.safetensors.index.json").write_text(json.dumps(index, indent=1))


@frozen
class StoredTensors:
    """Reads what `save_tensors` wrote, whole or a part of it. `CheckpointError` where it is missing or damaged."""

    folder: Path
    name: str
    count: int
    """Files that the tensors are parted over."""
    rows: Mapping[str, str]

    @classmethod
    def open(cls, folder: Path, name: str) -> StoredTensors:
        """Find the files of `name` in a folder."""
        index = folder / f"{name}.safetensors.index.json"
        if not index.exists():
            if not (folder / f"{name}.safetensors").exists():
                raise CheckpointError(f"{folder} has no {name}.safetensors")
            return cls(folder, name, 1, {})
        try:
            found = json.loads(index.read_text())
            return cls(folder, name, int(found["shards"]), {str(k): str(v) for k, v in found["rows"].items()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{index} cannot be read: {error!r}") from error

    @property
    def path(self) -> Path:
        """The first file, for messages."""
        return self.folder / _file(self.name, 0, self.count)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the whole tensors."""
        found: dict[str, tuple[int, ...]] = {}
        for shard in range(self.count):
            with self._file(shard) as file:
                for key in file.keys():  # noqa: SIM118
                    shape = tuple(file.get_slice(key).get_shape())
                    if shard and key in self.rows and key in found and shape:
                        shape = (found[key][0] + shape[0], *shape[1:])
                    found[key] = shape
        return found

    def read(
        self, sizes: Sequence[int], part: int = 0, parts: int = 1, *, rows: Mapping[str, str]
    ) -> dict[str, Tensor]:
        """All tensors, or part number `part` of `parts` of those with rows for latents.

        `sizes` are the numbers of latents of the whole groups; `rows` tells how tensors are parted where one file has
        them whole.
        """
        rows = {**rows, **self.rows}
        with ExitStack() as stack:
            files = [stack.enter_context(self._file(shard)) for shard in range(self.count)]
            found = {}
            for key in files[0].keys():  # noqa: SIM118
                kind = rows.get(key) if files[0].get_slice(key).get_shape() else None
                if kind is None or (self.count, parts) == (1, 1):
                    found[key] = files[0].get_tensor(key)
                    continue
                slices = [file.get_slice(key) for file in files]
                whole = sizes if kind == "latents" else [sum(one.get_shape()[0] for one in slices)]
                # Only this part is read, whatever the whole takes.
                places = _places(whole, self.count, part, parts)
                found[key] = torch.cat([slices[shard][start:stop] for shard, start, stop in places])
            return found

    @contextmanager
    def _file(self, shard: int) -> Iterator[Any]:
        path = self.folder / _file(self.name, shard, self.count)
        try:
            with safe_open(path, framework="pt") as file:
                yield file
        except FileNotFoundError:
            raise CheckpointError(f"{self.folder} has no {path.name}") from None
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path} is damaged or incomplete: {error}") from error


def _file(name: str, shard: int, count: int) -> str:
    return f"{name}.safetensors" if count == 1 else f"{name}-{shard + 1:05d}-of-{count:05d}.safetensors"


def _places(sizes: Sequence[int], count: int, part: int, parts: int) -> Iterator[tuple[int, int, int]]:
    """Where part number `part` of `parts` of each group lies in `count` files: file, from, to."""
    before = 0
    for size in sizes:
        begin, end = part * size // parts, (part + 1) * size // parts
        for shard in range(count):
            low, high = shard * size // count, (shard + 1) * size // count
            start, stop = max(begin, low), min(end, high)
            if start < stop:
                yield shard, before + start - low, before + stop - low
        before += size // count
