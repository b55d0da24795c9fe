"""One command at a time for a folder: a run, or a harvest, says by a file that it works there."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from attrs import frozen

from ..errors import ConfigError
from ..files import disk_errors, partial_path, remove_leftovers
from ..owners import Owner

LOCK = ".lock"
BEAT = 10.0
"""Seconds between signs of life, which other machines go by."""
PATIENCE = 6 * BEAT
"""Seconds without one after which a process of another machine counts as gone."""


@frozen
class _Holder:
    owner: Owner
    machine: str


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Work in `folder` alone. `ConfigError` names the process that works there; what dead ones left is removed.

    A process of another machine cannot be asked whether it lives; where one holds the folder, wait for a sign of life.
    """
    path = folder / LOCK
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _take(path)
    over = threading.Event()
    beating = threading.Thread(target=_beat, args=(path, over), name="lock", daemon=True)
    beating.start()
    try:
        for each in (folder, folder / "checkpoints"):
            remove_leftovers(each, alone=True)
        yield
    finally:
        over.set()
        beating.join()
        with suppress(OSError):
            path.unlink(missing_ok=True)


def refuse_if_locked(folder: Path) -> None:
    """`ConfigError` where a living process of this machine works in `folder`: to say so before anything slow."""
    holder = _read(folder / LOCK)
    if holder and holder.owner.lives:
        raise _taken(folder, holder)


def _take(path: Path) -> None:
    mine = partial_path(path)
    mine.write_text(json.dumps({"owner": str(Owner.me()), "machine": socket.gethostname()}), encoding="utf-8")
    try:
        while True:
            try:
                # A link is made or not made; of two processes that try, one finds the other's.
                os.link(mine, path)
                return
            except FileExistsError:
                _wait_or_refuse(path)
                _put_away(path)
            except OSError:
                # A file system without links: two that begin in the same instant are not told apart.
                _wait_or_refuse(path)
                path.write_bytes(mine.read_bytes())
                return
    finally:
        mine.unlink(missing_ok=True)


def _wait_or_refuse(path: Path) -> None:
    """Return once the process that the lock names is known to be gone."""
    holder = _read(path)
    if holder is None:
        return
    if holder.owner.is_here:
        if holder.owner.lives:
            raise _taken(path.parent, holder)
        return
    last = _changed(path)
    waited_until = time.monotonic() + PATIENCE
    while time.monotonic() < waited_until:
        time.sleep(min(1.0, PATIENCE / 10))
        if (now := _changed(path)) is None:
            return
        if now != last:
            raise _taken(path.parent, holder)


def _put_away(path: Path) -> None:
    """Remove a lock of the dead; where another process has just done so and taken it, give it back."""
    aside = partial_path(path)
    try:
        path.rename(aside)
    except FileNotFoundError:
        return
    holder = _read(aside)
    if holder and holder.owner.lives:
        with suppress(FileExistsError):
            os.link(aside, path)
    aside.unlink(missing_ok=True)


def _read(path: Path) -> _Holder | None:
    """Who holds a lock; None where nobody does, or the file is of no use."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        owner = Owner.read(content["owner"])
        return _Holder(owner, str(content["machine"])) if owner else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _taken(folder: Path, holder: _Holder) -> ConfigError:
    return ConfigError(
        f"{folder} is in use: process {holder.owner.pid} on {holder.machine} works there; wait for it, stop it, or "
        "choose another output folder"
    )


def _changed(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def _beat(path: Path, over: threading.Event) -> None:
    while not over.wait(BEAT):
        with suppress(OSError):
            os.utime(path)
