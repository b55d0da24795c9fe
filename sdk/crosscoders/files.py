"""Files and folders that appear whole or not at all, and what differs between two.

What is being written is called `.partial-NAME-OWNER-RANDOM`. A process that was killed leaves it behind; the next one
that writes there removes it, and knows by the owner that nobody writes it any more.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

from safetensors import SafetensorError

from .errors import DiskError
from .owners import Owner

PARTIAL, OLD = ".partial-", ".partial-old-"
FORGOTTEN_AFTER = 24 * 3600.0
"""Seconds without a change after which a left-over of another machine, which cannot be asked, counts as left."""
_NAME = re.compile(r"\.partial-(old-)?(?P<name>.+)-(?P<owner>[0-9a-f]{8}\.\d+\.\d+)-[0-9a-f]{8}")


@contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """What the disk refuses, a full or read-only one for instance, becomes a `DiskError` that says what for."""
    try:
        yield
    except DiskError:
        raise
    except OSError as error:
        where = f" ({error.filename})" if error.filename and str(error.filename) != str(target) else ""
        raise DiskError(f"cannot write {target}: {error.strerror or error}{where}") from error
    except SafetensorError as error:
        raise DiskError(f"cannot write {target}: {error}") from error


@contextmanager
def whole_folder(target: Path, partial: Path | None = None) -> Iterator[Path]:
    """Give a new folder to write into, which replaces `target` only once everything is on disk.

    A kill at any moment leaves either the old `target` or the new one, and what is left over besides is removed by the
    next call. `partial` names the new folder, for others to find. `DiskError` where the disk does not take it.
    """
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        if partial is None:
            remove_leftovers(target.parent)
            partial = partial_path(target)
        else:
            shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            yield partial
            put_folder(partial, target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def put_folder(partial: Path, target: Path) -> None:
    """Let a finished folder be called `target`, in the place of what was called so, once all of it is on disk."""
    for path in [*partial.rglob("*"), partial]:
        _sync(path)
    _put(partial, target)
    _sync(target.parent)


def write_whole(path: Path, content: str | Callable[[Path], None]) -> None:
    """Write a file, by a text or by a function that is given the path, so that it appears whole or not at all."""
    # In a folder of its own, since writers may make files beside theirs, as safetensors does.
    folder = partial_path(path)
    with disk_errors(path):
        folder.mkdir()
        try:
            partial = folder / path.name
            if isinstance(content, str):
                partial.write_text(content, encoding="utf-8")
            else:
                content(partial)
            _sync(partial)
            partial.rename(path)
            _sync(path.parent)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(folder: Path, *, alone: bool = False) -> None:
    """Remove what dead processes were writing into `folder`, and put back what one was about to replace.

    `alone` says that no other process writes here: what other machines made, and what several processes made together
    and has no owner, is left over too.
    """
    for path in folder.glob(f"{PARTIAL}*"):
        match = _NAME.fullmatch(path.name)
        owner = Owner.read(match["owner"]) if match else None
        if owner is not None and owner.is_here:
            if owner.lives:
                continue
        elif not alone and _age(path) < FORGOTTEN_AFTER:
            continue
        if path.name.startswith(OLD) and match and not (folder / match["name"]).exists():
            with suppress(OSError):
                path.rename(folder / match["name"])
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink(missing_ok=True)


def first_difference(then: Any, now: Any, path: str = "") -> str | None:
    """Describe where two trees of JSON data first differ; None if they are equal."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key in sorted(then.keys() | now.keys()):
            difference = first_difference(then.get(key), now.get(key), f"{path}.{key}".lstrip("."))
            if difference:
                return difference
        return None
    return None if then == now else f"{path} was {then!r} and is now {now!r}"


def partial_path(target: Path, prefix: str = PARTIAL) -> Path:
    """Where this process can make what is to be called `target`; `remove_leftovers` knows it."""
    return target.with_name(f"{prefix}{target.name}-{Owner.me()}-{uuid4().hex[:8]}")


def _put(partial: Path, target: Path) -> None:
    """Let `partial` be called `target`, and remove what was called so."""
    if not target.exists():
        partial.rename(target)
    elif not target.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "a file of this name is there", str(target))
    elif _exchange(partial, target):
        shutil.rmtree(partial)
    else:
        # For a moment nothing is called `target`; `remove_leftovers` mends it when that is the last moment.
        old = partial_path(target, OLD)
        target.rename(old)
        partial.rename(target)
        shutil.rmtree(old)


def _exchange(first: Path, second: Path) -> bool:
    """Let two paths change places at once; False where the system cannot."""
    function = _renameat2()
    if function is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(function(here, os.fsencode(first), here, os.fsencode(second), exchange) == 0)


@cache
def _renameat2() -> Any:
    """Linux's `renameat2`; None elsewhere."""
    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    return function


def _age(path: Path) -> float:
    """Seconds since a file, or the last changed thing in a folder, was changed."""
    newest = 0.0
    for one in (path, *path.rglob("*")):
        with suppress(OSError):
            newest = max(newest, one.lstat().st_mtime)
    return time.time() - newest


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
