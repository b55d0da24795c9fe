"""Atomic writing of files and folders, and the first difference between two JSON trees."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4


@contextmanager
def whole_folder(target: Path, partial: Path | None = None) -> Iterator[Path]:
    """Give a new folder to write into, which replaces `target` only once everything is on disk.

    A kill at any moment leaves either the old `target` or the new one; left-over folders begin with `.partial-`.
    `partial` sets the name of the new folder, so that other processes can find it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if partial is None:
        partial = target.parent / f".partial-{target.name}-{uuid4().hex[:8]}"
    else:
        shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        for path in [*partial.rglob("*"), partial]:
            _sync(path)
        if target.exists():
            old = target.parent / f".partial-old-{target.name}-{uuid4().hex[:8]}"
            target.rename(old)
            partial.rename(target)
            shutil.rmtree(old)
        else:
            partial.rename(target)
        _sync(target.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(path: Path, content: str | Callable[[Path], None]) -> None:
    """Write a file atomically; `content` is the text, or a function that writes to the path it is given."""
    partial = path.with_name(f".partial-{path.name}-{uuid4().hex[:8]}")
    try:
        if isinstance(content, str):
            partial.write_text(content)
        else:
            content(partial)
        _sync(partial)
        partial.rename(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def first_difference(then: Any, now: Any, path: str = "") -> str | None:
    """Describe where two trees of JSON data first differ; None if they are equal."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key in sorted(then.keys() | now.keys()):
            difference = first_difference(then.get(key), now.get(key), f"{path}.{key}".lstrip("."))
            if difference:
                return difference
        return None
    return None if then == now else f"{path} was {then!r} and is now {now!r}"
