"""Text, JSON and TOML that somebody else may have written: the one place where `json` and `tomllib` meet files.

Whatever is wrong with a file is one sentence of the error that the caller names; nothing is read past a size.
"""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import CrosscodersError

MOST_BYTES = 2**28
"""Of a JSON file: 256 MB."""
MOST_BYTES_OF_A_CONFIG = 2**24
"""Of a TOML file: 16 MB."""


def read_text(path: Path, error: type[CrosscodersError], *, limit: int = MOST_BYTES) -> str:
    """The text of a UTF-8 file, with or without a byte order mark; `FileNotFoundError` is left to the caller."""
    raw = b""
    try:
        special = path.exists() and not path.is_file()  # a folder, or a pipe that would never end
        if not special:
            with path.open("rb") as file:
                raw = file.read(limit + 1)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as problem:  # a ValueError: a name with a null character
        raise error(f"{path} cannot be read: {getattr(problem, 'strerror', None) or problem}") from problem
    if special:
        raise error(f"{path} cannot be read: it is not a file")
    if len(raw) > limit:
        raise error(f"{path} cannot be read: it is larger than {limit // 2**20} MB")
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise error(f"{path} cannot be read: it is in UTF-16; save it as UTF-8")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise error(f"{path} cannot be read: it is not UTF-8 text (byte {problem.start})") from problem


def read_json(path: Path, error: type[CrosscodersError]) -> Any:
    """The JSON of a file; `FileNotFoundError` is left to the caller."""
    return parse_json(read_text(path, error), str(path), error)


def parse_json(text: str | bytes, where: str, error: type[CrosscodersError]) -> Any:
    """Parse JSON of somebody else, in which no key may come twice."""

    def table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key comes twice in one table")
        return found

    try:
        return json.loads(text, object_pairs_hook=table)
    except RecursionError as problem:
        raise error(f"{where} cannot be read: it is nested too deeply") from problem
    except ValueError as problem:  # also of integers of over 4300 digits, and of bytes that are not text
        raise error(f"{where} cannot be read: {_first_line(problem)}") from problem


def read_toml_table(path: Path, error: type[CrosscodersError]) -> dict[str, Any]:
    """The content of a TOML file."""
    try:
        text = read_text(path, error, limit=MOST_BYTES_OF_A_CONFIG)
    except FileNotFoundError as problem:
        raise error(f"cannot read the config {path}: there is no such file") from problem
    try:
        return tomllib.loads(text)
    except RecursionError as problem:
        raise error(f"{path} is not valid TOML: it is nested too deeply") from problem
    except ValueError as problem:
        hint = ""
        if "\\" in text and any(word in str(problem) for word in ("hex", "escape", "Unescaped")):
            hint = "; in double quotes \\ begins an escape: write a path with / or in single quotes"
        raise error(f"{path} is not valid TOML: {_first_line(problem)}{hint}") from problem


def checksum(data: Any) -> str:
    """The sha256 of JSON data, however its tables are ordered and its numbers spaced."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _first_line(problem: Exception) -> str:
    return str(problem).partition("\n")[0]


def finite(value: Any) -> Any:
    """A value as JSON has it: null for numbers that are not finite, lists for tuples, texts for keys."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
