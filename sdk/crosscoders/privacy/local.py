"""What configs say of the machine they were used on: which of their strings are local paths, and what is published.

A path says who somebody is and what they work on, and means another file on another machine. A published config has
"local folder (sha256 …)" in its place.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path, PureWindowsPath
from typing import Any

PART = 64 * 1024
MAX_FILES = 10_000
NEVER_PATHS = frozenset(
    (
        *("adapter", "attention", "chat_column", "class", "column", "device_map", "dtype", "gguf_file", "name"),
        *("quantisation", "revision", "split", "subfolder", "subset"),
    )
)
"""Options that name no file by themselves, so that a folder which happens to be called `main` or `train`, or a file of
the name that one has elsewhere, changes nothing."""
NAMING_FILES = ("models", "tokens", "observers", "metrics", "initialisation")
"""Parts of a run's config whose strings may name files."""
_RECORDED = re.compile(r"local (folder|file|path)( \(sha256 [0-9a-f]{16}\))?")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")


def is_recorded(text: str) -> bool:
    """Whether this stands for a local path of the machine that something was made on."""
    return _RECORDED.fullmatch(text) is not None


def is_path(text: str) -> bool:
    """Whether a string is a path by its looks: absolute, or from the home folder, this folder or the one above."""
    return text.startswith(("/", "~", "./", "../", "\\", ".\\", "..\\")) or bool(PureWindowsPath(text).drive)


def is_address(text: str) -> bool:
    """Whether a string is an address elsewhere, the Hub apart; a file's URL and a chain of them are paths."""
    scheme = _SCHEME.match(text)
    return scheme is not None and "::" not in text and scheme[1].lower() not in ("hf", "file", "local")


def is_local(text: str) -> bool:
    """Whether a string names something of this machine, by its looks or by being there. The shipped pair does not."""
    if not text.strip() or len(text) > 4096 or "\n" in text or text.startswith(("tiny-pair/", "hf://")):
        return False
    if is_recorded(text) or is_address(text):
        return False
    if is_path(text) or "::" in text or _SCHEME.match(text) or ".." in re.split(r"[/\\]", text):
        return True
    try:
        return os.path.lexists(text) or (glob.has_magic(text) and bool(glob.glob(text)))  # noqa: PTH207 - strings
    except (OSError, ValueError):
        return False


def local_strings(data: Any) -> list[tuple[str, str]]:
    """The local paths in the plain data of a model, a token source or an observer, each with its key before it."""
    return [(where, text) for where, text in _strings(data) if is_local(text) and not _means_no_file(where, text)]


def path_strings(data: Any) -> list[str]:
    """The strings in plain data that are paths by their looks alone."""
    return [text for _, text in _strings(data) if is_path(text) and len(text) > 1]


def addresses(data: Any) -> list[tuple[str, str]]:
    """The addresses in plain data, each with its key before it."""
    return [(where, text) for where, text in _strings(data) if is_address(text)]


def recorded_strings(data: Any) -> list[str]:
    """The keys of what was a local path on the machine that something was made on."""
    return [where for where, text in _strings(data) if is_recorded(text)]


def _means_no_file(where: str, text: str) -> bool:
    return where.rpartition(".")[2] in NEVER_PATHS and not is_path(text) and not {"/", "\\", ":"} & set(text)


def _strings(data: Any) -> Iterator[tuple[str, str]]:
    """Each string with its key; without recursion, since a stranger's data may be nested as deeply as they like."""
    waiting = [("", data)]
    while waiting:
        where, value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += [(f"{where}.{key}".lstrip("."), item) for key, item in reversed(list(value.items()))]
        elif isinstance(value, list | tuple):
            waiting += [(where, item) for item in reversed(value)]
        elif isinstance(value, str):
            yield where, value


def record(path: str) -> str:
    """What is published of a local path: what it is and a digest of what is there, never its name."""
    place = Path(path).expanduser()
    try:
        kind = "folder" if place.is_dir() else "file" if place.is_file() else "path"
        return f"local {kind}" + (f" (sha256 {fingerprint(place)})" if kind != "path" else "")
    except OSError:
        return "local path"


def fingerprint(path: Path) -> str:
    """16 digits that change with the names, the sizes and the beginnings and ends of files: quick for large models."""
    digest = sha256()
    files = [path] if path.is_file() else sorted(_files(path))
    for file in files:
        name = file.relative_to(path).as_posix() if file != path else ""
        size = file.stat().st_size
        digest.update(f"{name}\0{size}\0".encode("utf-8", "surrogateescape"))
        with file.open("rb") as content:
            digest.update(content.read(PART))
            if size > PART:
                content.seek(max(PART, size - PART))
                digest.update(content.read(PART))
    return digest.hexdigest()[:16]


def _files(folder: Path) -> list[Path]:
    found: list[Path] = []
    for place, folders, names in os.walk(folder):
        folders.sort()
        found += [file for name in sorted(names) if (file := Path(place, name)).is_file()]
        if len(found) > MAX_FILES:
            return found[:MAX_FILES]
    return found


def published(
    recipe: Mapping[str, Any], models: Mapping[str, Any], *, known: Mapping[str, str] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A run's config, and what its models say of themselves, without local paths.

    Outside of the parts that name files, only what looks like a path is one: a folder `wandb` beside a run does not
    make a path of the tracker's name. `known` says what to put for some paths, whatever is there now.
    """
    parts = {key: recipe[key] for key in NAMING_FILES if key in recipe}
    names = {text for _, text in local_strings([parts, models])}
    names |= set(path_strings(recipe))
    known = known or {}
    table = {**known, **{name: record(name) for name in names - known.keys()}}
    # The longest first, since one path may be the beginning of another.
    paths = sorted((name for name in table if is_path(name) and len(name) > 1), key=len, reverse=True)

    def plain(data: Any, where: str = "", everything: bool = True) -> Any:
        if isinstance(data, Mapping):
            return {key: plain(value, f"{where}.{key}", everything) for key, value in data.items()}
        if isinstance(data, list | tuple):
            return [plain(value, where, everything) for value in data]
        if not isinstance(data, str) or is_recorded(data):
            return data
        if data in table and (is_path(data) or (everything and not _means_no_file(where, data))):
            return table[data]
        for path in paths:  # in a sentence, such as the name of a difference of two models
            data = data.replace(path, table[path])
        return data

    return {key: plain(value, key, key in NAMING_FILES) for key, value in recipe.items()}, plain(models)
