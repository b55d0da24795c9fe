"""The manifest of a cache of activations: what is in it and how that is known to be what was written.

What the whole cache was made from has a checksum in the manifest; so has the calibration. Each shard has the checksum
of its file, and the file names the checksum of what the manifest says of it. So no row can change without a word.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import file_digest
from pathlib import Path
from typing import Any

from ..crosscoder.sites import Site, SiteLayout
from ..errors import CacheError, CrosscodersError, shown
from ..reading import checksum, read_json

FORMAT = 5
MANIFEST, CALIBRATION, PART = "manifest.json", "calibration.safetensors", ".part.json"
MADE_FROM = ("format", "identity", "models", "packing", "start", "sites")
"""Keys of a manifest that stay as they were begun."""
ROW = ("split", "block", "rows", "kept", "after")
"""What a manifest says of a shard besides its file."""

Shard = dict[str, Any]
"""A row of the manifest: a file and what is in it."""


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a cache, in which every value is of the kind that it should be; else a `CacheError`."""
    path = folder / MANIFEST
    try:
        manifest = read_json(path, CacheError)
    except FileNotFoundError:
        raise CacheError(
            f"{folder} is not an activation cache: it has no {MANIFEST}; make one with `crosscoders harvest`"
        ) from None
    except CacheError as error:
        raise CacheError(
            f"{folder} is not an activation cache: {error}; make one with `crosscoders harvest`"
        ) from error
    if not isinstance(manifest, dict) or type(manifest.get("format")) is not int:
        raise CacheError(f"{folder} is not an activation cache: {path} should hold a table with a format")
    if manifest["format"] != FORMAT:
        raise CacheError(
            f"the cache {folder} has format {shown(manifest['format'])}; this version reads {FORMAT}: harvest anew"
        )
    kinds = {"identity": dict, "models": dict, "start": dict, "packing": str, "sites": list, "shards": list}
    for key, kind in kinds.items():
        if not isinstance(manifest.get(key), kind):
            raise CacheError(f"{path} should have a {kind.__name__} at '{key}', not {shown(manifest.get(key))}")
    sizes = manifest.get("block_sequences")
    if not isinstance(sizes, dict) or any(not _is_count(sizes.get(split)) for split in ("train", "held_out")):
        raise CacheError(f"{path} should have the sizes of blocks at 'block_sequences', not {shown(sizes)}")
    if made_from_checksum(manifest) != manifest.get("checksum"):
        raise CacheError(f"{path} is damaged: it does not have the checksum that it names")
    layout_of(manifest, path)
    for shard in manifest["shards"]:
        check_row(shard, path)
    return manifest


def made_from_checksum(manifest: Mapping[str, Any]) -> str:
    """The checksum of what the whole cache was made from."""
    return checksum({key: manifest.get(key) for key in MADE_FROM})


def row_checksum(shard: Shard) -> str:
    """The checksum of what a manifest says of a shard, which the shard's own header names."""
    return checksum({key: shard[key] for key in ROW})


def read_part(path: Path) -> Shard:
    """The row of a shard that the manifest does not list yet."""
    try:
        shard: Shard = read_json(path, CacheError)
    except FileNotFoundError:
        raise CacheError(f"{path} has gone: does another harvest write here?") from None
    return check_row(shard, path)


def check_row(shard: Any, path: Path) -> Shard:
    """`shard` where it is a row of a manifest; names lead to no other folder."""
    rows = shard.get("rows") if isinstance(shard, dict) else None
    if (
        not isinstance(shard, dict)
        or not isinstance(shard.get("file"), str)
        or not re.fullmatch(r"(train|held_out)-\d{8,}-\d{6,}-\d{6,}\.safetensors", shard["file"])
        or shard.get("split") not in ("train", "held_out")
        or not shard["file"].startswith(f"{shard['split']}-")
        or not _is_count(shard.get("block"), least=0)
        or not (isinstance(rows, list) and len(rows) == 2 and all(_is_count(row, least=0) for row in rows))
        or not rows[0] <= rows[1]
        or not _is_count(shard.get("kept"), least=0)
        or not isinstance(shard.get("sha256"), str)
        or not isinstance(shard.get("after"), dict)
    ):
        raise CacheError(f"{path} has a malformed shard {shown(shard)}")
    return shard


def layout_of(manifest: Mapping[str, Any], path: Path) -> SiteLayout:
    """The sites of a cache."""
    try:
        return SiteLayout(tuple(Site(site["name"], site["width"]) for site in manifest["sites"]))
    except (KeyError, TypeError, ValueError, CrosscodersError) as error:
        raise CacheError(f"{path} has malformed sites {shown(manifest['sites'])}") from error


def by_block(shards: list[Shard]) -> dict[tuple[str, int], list[Shard]]:
    """Shards by split and block."""
    found: dict[tuple[str, int], list[Shard]] = {}
    for shard in shards:
        found.setdefault((shard["split"], shard["block"]), []).append(shard)
    return found


def digest(path: Path) -> str:
    """The sha256 of a file; `CacheError` where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CacheError(f"{path} cannot be read: {error.strerror}") from error


def _is_count(value: Any, *, least: int = 1) -> bool:
    return type(value) is int and least <= value < 2**53
