"""Tensors on disk in one file, or in one file for each process that holds a shard of the latents.

`NAME.safetensors`, or `NAME-00001-of-00004.safetensors` … and `NAME.safetensors.index.json`. The index says which
tensors are sharded and how: `group` has a row for each latent of one group, of which file s of S holds the s-th share;
`latents` has a row for each latent of all groups, sharded group by group; all other tensors are equal in every file.

Each file says in its own header what the sha256 of its tensors is, since the format has no checksum of its own. A file
that another program has written again has none, and is read without.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import CheckpointError, shown
from ..files import disk_errors, whole_folder
from ..processes import ALONE, Processes
from ..reading import read_json

MOST_SHARDS = 99_999
"""What the names of files have digits for."""
SPREAD = 2**14
"""Numbers of a tensor that its fingerprint looks at, at most."""


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
    folder: Path, name: str, tensors: Mapping[str, Tensor], sharding: Mapping[str, str], processes: Processes = ALONE
) -> None:
    """Write this process's `tensors`; `sharding` tells which of them are sharded, as in the module's description."""
    count = processes.num_shards
    plain = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    path = folder / _file(name, processes.shard, count)
    with disk_errors(path):
        # One entry alone: of several, safetensors writes now one first and now another, and files of equal tensors
        # would differ.
        save_file(plain, path, metadata={"sha256": tensors_checksum(plain)})
    if count > 1 and processes.shard == 0:
        index = {"shards": count, "sharding": {key: sharding[key] for key in tensors if key in sharding}}
        (folder / f"{name}.safetensors.index.json").write_text(json.dumps(index, indent=1))


def tensors_checksum(tensors: Mapping[str, Tensor]) -> str:
    """The sha256 of tensors on the CPU with their names, types and shapes."""
    digest = hashlib.sha256()
    for key in sorted(tensors):
        _add(digest, key, tensors[key])
    return digest.hexdigest()


def tensors_fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """16 digits that change with the names, types and shapes of tensors and with numbers spread over each of them.

    As quick for large crosscoders as for small ones; for telling whether two are the same, not against who wants to
    deceive.
    """
    digest = hashlib.sha256()
    for key in sorted(tensors):
        tensor = tensors[key].detach()
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.reshape(-1)
        some = flat[:: 1 + len(flat) // SPREAD].cpu().contiguous()
        digest.update(some.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def check_tensors(file: Any, path: Path) -> None:
    """Compare the tensors of an open file with the checksum in its header, if there is one."""
    expected = (file.metadata() or {}).get("sha256")
    if expected is None:
        return
    digest = hashlib.sha256()
    for key in sorted(file.keys()):
        _add(digest, key, file.get_tensor(key))
    if digest.hexdigest() != expected:
        raise CheckpointError(f"{path} is damaged: its tensors are not those of its checksum")


def _add(digest: Any, key: str, tensor: Tensor) -> None:
    digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
    if tensor.numel():
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())


def link_tensors(folder: Path, name: str, other: Path) -> None:
    """Let `other` have the files of `name` that `folder` has, without writing them again where links can be made."""
    for path in [folder / f"{name}.safetensors", *folder.glob(f"{name}-*.safetensors"), *folder.glob(f"{name}.*.json")]:
        if not path.exists():
            continue
        try:
            os.link(path, other / path.name)
        except OSError:
            shutil.copyfile(path, other / path.name)


def is_in_parts(folder: Path, name: str) -> bool:
    """Whether several processes saved `name`, each its part of the tensors."""
    index = folder / f"{name}.safetensors.index.json"
    return index.exists() and '"shards"' in index.read_text(encoding="utf-8")


@frozen
class StoredTensors:
    """Reads what `save_tensors` wrote, whole or one shard of it. `CheckpointError` where it is missing or damaged."""

    folder: Path
    name: str
    count: int
    """Files that the tensors are sharded over."""
    sharding: Mapping[str, str]
    placed: Mapping[str, str] = {}
    """Where whole tensors lie in several files, the file of each; empty for one file, or for parts of tensors."""

    @classmethod
    def open(cls, folder: Path, name: str) -> StoredTensors:
        """Find the files of `name` in a folder."""
        index = folder / f"{name}.safetensors.index.json"
        if not index.exists():
            if not (folder / f"{name}.safetensors").exists():
                raise CheckpointError(f"{folder} has no {name}.safetensors")
            return cls(folder, name, 1, {})
        content = read_json(index, CheckpointError)
        if isinstance(content, dict) and isinstance(content.get("weight_map"), dict):
            return cls(folder, name, 1, {}, {str(k): str(v) for k, v in content["weight_map"].items()})
        count, sharding = (content.get(key) if isinstance(content, dict) else None for key in ("shards", "sharding"))
        if type(count) is not int or not 1 <= count <= MOST_SHARDS:
            raise CheckpointError(f"{index} should have a number of files at 'shards', not {shown(count)}")
        if not isinstance(sharding, dict) or not set(map(str, sharding.values())) <= {"group", "latents"}:
            raise CheckpointError(f"{index} should have a table at 'sharding', not {shown(sharding)}")
        return cls(folder, name, count, sharding)

    @property
    def path(self) -> Path:
        """The first file, for messages."""
        if self.placed:
            return self.folder / f"{self.name}.safetensors.index.json"
        return self.part(0)

    def part(self, shard: int) -> Path:
        """The file of one part."""
        return self.folder / _file(self.name, shard, self.count)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the whole tensors."""
        shapes: dict[str, tuple[int, ...]] = {}
        for file_name in sorted(set(self.placed.values())):
            with self._opened(self._listed(file_name)) as file:
                shapes |= {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        if self.placed:
            return shapes
        for shard in range(self.count):
            with self._file(shard) as file:
                for key in file.keys():  # noqa: SIM118
                    shape = tuple(file.get_slice(key).get_shape())
                    if shard:
                        before = shapes.get(key, ())
                        if before[1:] != shape[1:] or len(before) != len(shape):
                            raise CheckpointError(f"{self.part(shard)} does not go with {self.path}: see '{key}'")
                        if key in self.sharding and shape:
                            shape = (before[0] + shape[0], *shape[1:])
                    shapes[key] = shape
        return shapes

    def read(
        self, sizes: Sequence[int], shard: int = 0, num_shards: int = 1, *, sharding: Mapping[str, str]
    ) -> dict[str, Tensor]:
        """All tensors whole, or shard `shard` of `num_shards` of those with a row for each latent.

        `sizes` are the numbers of latents of the whole groups; `sharding` tells how to shard tensors that one file has
        whole.
        """
        sharding = {**sharding, **self.sharding}
        if self.placed:
            return self._read_placed(sizes, shard, num_shards, sharding)
        with ExitStack() as stack:
            files = [stack.enter_context(self._file(index)) for index in range(self.count)]
            unchecked, tensors = set(range(self.count)), {}

            def checked(index: int) -> Any:
                if index in unchecked:
                    check_tensors(files[index], self.part(index))
                    unchecked.remove(index)
                return files[index]

            for key in files[0].keys():  # noqa: SIM118
                kind = sharding.get(key) if files[0].get_slice(key).get_shape() else None
                if kind is None or (self.count, num_shards) == (1, 1):
                    tensors[key] = checked(0).get_tensor(key)
                    continue
                slices = [one.get_slice(key) for one in files]
                whole = sizes if kind == "latents" else [sum(one.get_shape()[0] for one in slices)]
                # Only this shard is read, whatever the whole takes.
                places = list(rows_of(whole, self.count, shard, num_shards))
                for index, _, _ in places:
                    checked(index)
                tensors[key] = torch.cat([slices[index][start:stop] for index, start, stop in places])
            return tensors

    def _read_placed(
        self, sizes: Sequence[int], shard: int, num_shards: int, sharding: Mapping[str, str]
    ) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for name in sorted(set(self.placed.values())):
            with self._opened(self._listed(name)) as file:
                for key in file.keys():  # noqa: SIM118
                    one = file.get_slice(key)
                    kind = sharding.get(key) if one.get_shape() else None
                    if kind is None or num_shards == 1:
                        tensors[key] = file.get_tensor(key)
                        continue
                    whole = sizes if kind == "latents" else [one.get_shape()[0]]
                    places = rows_of(whole, 1, shard, num_shards)
                    tensors[key] = torch.cat([one[start:stop] for _, start, stop in places])
        return tensors

    def _listed(self, name: str) -> Path:
        """A file that the index names, which must lie beside it."""
        if Path(name).name != name:
            raise CheckpointError(f"{self.path} names the file '{name}', which is not beside it")
        return self.folder / name

    def _file(self, shard: int) -> AbstractContextManager[Any]:
        return self._opened(self.part(shard))

    @contextmanager
    def _opened(self, path: Path) -> Iterator[Any]:
        try:
            with safe_open(path, framework="pt") as file:
                yield file
        except FileNotFoundError:
            raise CheckpointError(f"{self.folder} has no {path.name}") from None
        except (OSError, SafetensorError, RuntimeError) as error:  # torch's own, of tensors that do not go together
            raise CheckpointError(f"{path} is damaged or incomplete: {error}") from error


def _file(name: str, shard: int, count: int) -> str:
    return f"{name}.safetensors" if count == 1 else f"{name}-{shard + 1:05d}-of-{count:05d}.safetensors"


def rows_of(sizes: Sequence[int], count: int, shard: int, num_shards: int) -> Iterator[tuple[int, int, int]]:
    """Where shard `shard` of `num_shards` of each group lies in `count` files: file, from, to."""
    before = 0
    for size in sizes:
        begin, end = shard * size // num_shards, (shard + 1) * size // num_shards
        for file in range(count):
            low, high = file * size // count, (file + 1) * size // count
            start, stop = max(begin, low), min(end, high)
            if start < stop:
                yield file, before + start - low, before + stop - low
        before += size // count
