"""Harvested activations on disk: written once, by one or several processes, and read by any number of processes.

A cache is a folder of safetensors shards, each with some rows of one block, and a manifest that records what they were
made from. Shards are memory-mapped. A training run on a cache sees exactly the batches that a live run would see.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from ..errors import CacheError, listed
from ..files import first_difference, write_whole
from ..models.packing import Packing
from ..privacy.configs import recorded, recorded_like, records
from ..privacy.local import published
from ..processes import ALONE, Processes
from .blocks import Block, LiveBlocks, sequences_per_block
from .calibration import Calibration
from .config import HarvestConfig
from .manifest import (
    CALIBRATION,
    FORMAT,
    MANIFEST,
    PART,
    Shard,
    by_block,
    digest,
    layout_of,
    made_from_checksum,
    read_manifest,
    read_part,
    row_checksum,
)
from .source import LiveActivations, num_passes, watched


def write_cache(
    folder: Path,
    config: HarvestConfig,
    live: LiveActivations,
    *,
    num_tokens: int,
    evaluation_tokens: int,
    processes: Processes = ALONE,
    quiet: bool = False,
) -> None:
    """Harvest `num_tokens` training tokens and `evaluation_tokens` held-out ones into `folder`.

    An interrupted harvest resumes when called again with the same config, on any number of processes. Raises
    `CacheError` if the folder holds something else.
    """
    if processes.is_main:
        _prepare(folder, config, live, processes)
    processes.wait()
    manifest, shards = read_manifest(folder), _shards(folder)
    known = "calibration" in manifest
    quiet = quiet or not processes.is_main
    with watched(live, "calibrating", config.activations.calibration_tokens // processes.world, quiet=quiet):
        calibration = _calibration(folder, manifest) if known else live.calibrate()
    processes.wait()
    if processes.is_main and not known:
        tensors = {key: torch.as_tensor(value) for key, value in attrs.asdict(calibration).items()}
        write_whole(folder / CALIBRATION, lambda path: save_file(tensors, path))
        manifest["calibration"] = digest(folder / CALIBRATION)
        write_whole(folder / MANIFEST, json.dumps(manifest, indent=1))
    writer = _Writer(folder, shards, processes)
    held_out, train = (
        live.held_out_blocks(calibration.median_norm_S, evaluation_tokens),
        live.blocks(calibration.median_norm_S),
    )
    held_out.num_sequences, train.num_sequences = (
        manifest["block_sequences"]["held_out"],
        manifest["block_sequences"]["train"],
    )
    evaluated = num_passes(evaluation_tokens, config.activations.context_length, held_out.num_sequences)
    with watched(live, "held out", evaluation_tokens // processes.world, quiet=quiet):
        writer.write("held_out", held_out, evaluated)
    with tqdm(total=num_tokens, unit="tok", unit_scale=True, desc="harvesting", disable=quiet) as bar:
        writer.write_tokens("train", train, num_tokens, bar)
    processes.wait()
    if processes.is_main:
        manifest["shards"] = _shards(folder)
        write_whole(folder / MANIFEST, json.dumps(manifest, indent=1))
        listed = {shard["file"] for shard in manifest["shards"]}
        for path in [*folder.glob(f"*{PART}"), *folder.glob("*-*.safetensors")]:
            if path.name not in listed:
                path.unlink()
    processes.wait()


def _prepare(folder: Path, config: HarvestConfig, live: LiveActivations, processes: Processes) -> None:
    """Start a new cache, or check that the existing one can be extended."""
    identity = config.identity()
    there = read_manifest(folder) if (folder / MANIFEST).exists() else None
    known = records(there["identity"]) if there else {}
    manifest = {
        "format": FORMAT,
        "identity": recorded(identity),
        "models": published(identity, live.models, known=known)[1],
        # Not in the identity: what `pack` comes to is known only when the models have been tried.
        "packing": live.packing,
        "start": live.start(),
        "sites": [attrs.asdict(site) for site in live.layout.sites],
        # Keep the block size of the first run, even if the process count changed: positions in the token stream and
        # the order of the batches both depend on it.
        "block_sequences": {
            "train": sequences_per_block(config.activations, processes.world),
            "held_out": config.activations.rows_per_forward,
        },
        "shards": [],
    }
    manifest = json.loads(json.dumps(manifest))
    manifest["checksum"] = made_from_checksum(manifest)
    if there is None:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / MANIFEST, json.dumps(manifest, indent=1))
        return
    _check(folder, there, config)
    difference = first_difference(there["models"], manifest["models"])
    if difference:
        raise CacheError(f"the cache {folder} was made with other models: {difference}")
    if there["packing"] != live.packing:
        raise CacheError(
            f"the rows of the cache {folder} are '{there['packing']}', and those of these models would be "
            f"'{live.packing}'; harvest into another folder"
        )
    # A block that only some processes finished is written anew: with another process count its rows are divided
    # differently, and old shards would overlap with new ones.
    for (split, _), shards in by_block(_shards(folder)).items():
        if _num_rows(shards) < there["block_sequences"][split]:
            for shard in shards:
                _part(folder, shard["file"]).unlink(missing_ok=True)


class _Writer:
    """Writes this process's rows of the blocks that the cache does not have yet."""

    def __init__(self, folder: Path, shards: list[Shard], processes: Processes) -> None:
        self.folder, self.processes = folder, processes
        self.written = by_block(shards)

    def write(self, split: str, blocks: LiveBlocks, count: int) -> None:
        """Write the first `count` blocks."""
        position = blocks.start()
        for index in range(count):
            position, _ = self._block(split, index, blocks, position)

    def write_tokens(self, split: str, blocks: LiveBlocks, num_tokens: int, bar: tqdm[Any]) -> None:
        """Write blocks until all but the last hold `num_tokens` kept tokens; the stream looks one block ahead."""
        position, index, before, kept = blocks.start(), 0, 0, 0
        while before < num_tokens:
            before += kept
            there = _num_rows(self.written.get((split, index), [])) == blocks.num_sequences
            position, kept = self._block(split, index, blocks, position)
            index += 1
            new = min(kept, num_tokens - bar.n)
            if there and not bar.disable:
                # Not of this call, and not of its rate.
                bar.initial += new
            bar.update(new)

    def _block(
        self, split: str, index: int, blocks: LiveBlocks, position: dict[str, Any]
    ) -> tuple[dict[str, Any], int]:
        """Write one block; returns where the next one begins, and how many tokens all processes keep in this one."""
        there = self.written.get((split, index), [])
        if _num_rows(there) == blocks.num_sequences:
            for shard in there:
                with _opened(self.folder / shard["file"], shard):
                    pass
            return there[0]["after"], sum(shard["kept"] for shard in there)
        keep_BT, x_RX, after = blocks.harvest(position)
        # The marker is written after the shard, so a crash between the two only repeats this block.
        rows = self.processes.share(blocks.num_sequences)
        path = self.folder / f"{split}-{index:08d}-{rows[0]:06d}-{rows[1]:06d}.safetensors"
        tensors = {"keep_BT": keep_BT.contiguous(), "x_RX": x_RX.cpu().contiguous()}
        shard = {
            "file": path.name,
            "split": split,
            "block": index,
            "rows": list(rows),
            "kept": len(x_RX),
            "after": json.loads(json.dumps(after)),
        }
        metadata = {"row": row_checksum(shard)}
        write_whole(path, lambda partial: save_file(tensors, partial, metadata=metadata))
        shard["sha256"] = digest(path)
        write_whole(_part(self.folder, path.name), json.dumps(shard))
        counts = self.processes.gather_for_harvest(torch.tensor([len(x_RX)]))
        return after, int(counts.sum())


class CachedActivations:
    """Reads what `write_cache` wrote for the same config, without loading a model.

    Raises `CacheError` if the cache is unfinished or was made from another config. With `verify`, the checksum of each
    shard is compared when it is first read.
    """

    def __init__(
        self, folder: Path, config: HarvestConfig, *, processes: Processes = ALONE, verify: bool = True
    ) -> None:
        self.folder, self.processes, self.verify = folder, processes, verify
        self.manifest = read_manifest(folder)
        _check(folder, self.manifest, config)
        if not self.manifest["shards"]:
            raise CacheError(f"the cache {folder} is not finished; run the same `crosscoders harvest` again")
        self.config = config
        self.layout = layout_of(self.manifest, folder / MANIFEST)
        if self.layout.names != tuple(config.sites):
            raise CacheError(f"the cache {folder} has the sites {', '.join(self.layout.names)}")
        self.models = self.manifest["models"]
        self.packing: Packing = self.manifest["packing"]

    def calibrate(self) -> Calibration:
        return _calibration(self.folder, self.manifest)

    def blocks(self, median_norm_S: Tensor) -> CachedBlocks:
        return self._blocks("train")

    def held_out(self, median_norm_S: Tensor, num_tokens: int) -> Iterator[Tensor]:
        blocks = self._blocks("held_out")
        rows, position = self.manifest["block_sequences"]["held_out"], blocks.start()
        for index in range(num_passes(num_tokens, self.config.activations.context_length, rows)):
            block, position = blocks.read(index, position)
            yield block.x_RX.float()

    def _blocks(self, split: str) -> CachedBlocks:
        shards = [shard for shard in self.manifest["shards"] if shard["split"] == split]
        dtype = getattr(torch, self.config.activations.buffer_dtype)
        return CachedBlocks(
            self.folder,
            shards,
            self.layout.width,
            dtype,
            self.processes,
            first=self.manifest["start"],
            num_sequences=self.manifest["block_sequences"][split],
            verify=self.verify,
        )


class CachedBlocks:
    """Blocks read from the shards of one split."""

    device = torch.device("cpu")

    def __init__(
        self,
        folder: Path,
        shards: list[Shard],
        width: int,
        dtype: torch.dtype,
        processes: Processes,
        *,
        first: dict[str, Any],
        num_sequences: int,
        verify: bool,
    ) -> None:
        self.first = first
        self.folder, self.width, self.dtype, self.processes = folder, width, dtype, processes
        ordered = sorted(shards, key=lambda shard: (shard["block"], shard["rows"]))
        self.shards = {index: files for (_, index), files in by_block(ordered).items()}
        for index, files in self.shards.items():
            edges = [0, *(row for shard in files for row in shard["rows"]), num_sequences]
            if edges[::2] != edges[1::2]:
                raise CacheError(f"the cache {folder} does not have all rows of block {index} once")
        self._unchecked = {shard["file"] for shard in shards} if verify else set()

    def start(self) -> dict[str, Any]:
        return self.first

    def read(self, index: int, position: dict[str, Any]) -> tuple[Block, dict[str, Any]]:
        if index not in self.shards:
            kept = sum(shard["kept"] for block in self.shards.values() for shard in block)
            raise CacheError(
                f"the cache {self.folder} has {kept:,} tokens, fewer than this run needs; "
                "run `crosscoders harvest` with this config, or with more --tokens, to add to it"
            )
        # The shards were written by some number of processes and may be read by another: cut this process's rows out of
        # whichever shards hold them. The mask of the whole block is always read, since the shuffle needs all slots.
        shards = self.shards[index]
        begin, stop = self.processes.share(shards[-1]["rows"][1])
        keeps, parts, first = [], [], 0
        for shard in shards:
            low, high = (min(max(row, shard["rows"][0]), shard["rows"][1]) - shard["rows"][0] for row in (begin, stop))
            keep_BT, x_RX = self._rows(shard, low, high)
            first = begin * keep_BT.shape[1]
            keeps.append(keep_BT.flatten())
            parts.append(x_RX)
        return Block(torch.cat(keeps), first, torch.cat(parts) if len(parts) > 1 else parts[0]), shards[0]["after"]

    def _rows(self, shard: dict[str, Any], low: int, high: int) -> tuple[Tensor, Tensor]:
        """Return which tokens of the whole shard are kept, and the activations of its rows `low` to `high`."""
        path = self.folder / shard["file"]
        try:
            if low < high and shard["file"] in self._unchecked:
                if digest(path) != shard["sha256"]:
                    raise CacheError(f"the shard {path} is damaged: its checksum differs from the manifest's")
                self._unchecked.remove(shard["file"])
            with _opened(path, shard) as file:
                keep_BT, shape = file.get_tensor("keep_BT"), file.get_slice("x_RX").get_shape()
                if keep_BT.dtype != torch.bool or shape != [int(keep_BT.count_nonzero()), self.width]:
                    raise CacheError(f"the shard {path} has activations of shape {shape}")
                # Only kept tokens are stored, so counting the mask gives the range of a row's activations.
                start, count = int(keep_BT[:low].sum()), int(keep_BT[low:high].sum())
                return keep_BT, file.get_slice("x_RX")[start : start + count]
        except (OSError, SafetensorError) as error:
            raise CacheError(f"the shard {path} cannot be read: {error}") from error


def verify_cache(folder: Path) -> int:
    """Compare every shard with its checksum and return the number of shards. `CacheError` names the damaged ones."""
    manifest = read_manifest(folder)
    shards: list[Shard] = manifest["shards"]
    bad = [shard["file"] for shard in shards if not _is_whole(folder, shard)]
    if bad:
        raise CacheError(f"the cache {folder} has damaged or missing shards: {listed(bad, ', ')}")
    if shards:
        _calibration(folder, manifest)
    return len(shards)


def _is_whole(folder: Path, shard: Shard) -> bool:
    path = folder / shard["file"]
    try:
        with _opened(path, shard):
            return bool(digest(path) == shard["sha256"])
    except (OSError, SafetensorError, CacheError):
        return False


@contextmanager
def _opened(path: Path, shard: Shard) -> Iterator[Any]:
    """A shard's file, whose header says the same of it as the manifest does."""
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("row") != row_checksum(shard):
                raise CacheError(
                    f"the shard {path} is not what the manifest says of it: its rows, tokens or place differ"
                )
            yield file
    except (OSError, SafetensorError) as error:
        raise CacheError(f"the shard {path} cannot be read: {error}") from error


def _check(folder: Path, manifest: dict[str, Any], config: HarvestConfig) -> None:
    then = manifest["identity"]
    # Compare after a round trip through JSON, so that tuples and lists are equal.
    difference = first_difference(then, json.loads(json.dumps(recorded_like(then, config.identity()))))
    if difference:
        raise CacheError(f"the cache {folder} was made from another config: {difference}")


def _shards(folder: Path) -> list[Shard]:
    """All finished shards: those in the manifest, and those that an unfinished harvest has added since.

    A crash between writing the manifest and deleting the markers leaves both, so duplicates are dropped.
    """
    added = [read_part(path) for path in sorted(folder.glob(f"*{PART}"))]
    return list({shard["file"]: shard for shard in [*read_manifest(folder)["shards"], *added]}.values())


def _num_rows(shards: list[Shard]) -> int:
    return sum(shard["rows"][1] - shard["rows"][0] for shard in shards)


def _part(folder: Path, shard: str) -> Path:
    """Marker file: the shard is complete but not yet in the manifest."""
    return folder / f"{Path(shard).stem}{PART}"


def _calibration(folder: Path, manifest: dict[str, Any]) -> Calibration:
    path = folder / CALIBRATION
    if manifest.get("calibration") != digest(path):
        raise CacheError(f"the calibration {path} is damaged: its checksum differs from the manifest's")
    try:
        tensors = load_file(path)
        return Calibration(num_tokens=int(tensors.pop("num_tokens")), **tensors)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CacheError(f"the calibration of {folder} cannot be read: {error}") from error
