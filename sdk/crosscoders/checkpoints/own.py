"""Which recipes are the user's own: remembered in their home when their own run saves a crosscoder.

What is published of a run has no local paths (`local`), and a folder's recipe may be anybody's. So what a user's own
runs read is kept beside neither: under `$XDG_STATE_HOME/crosscoders/recipes`, by the digest of the `config.json` that
it belongs to. A file that somebody else could have written there is passed over.
"""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import attrs

from ..crosscoder.info import CheckpointInfo
from ..files import write_whole
from .local import published


def remember(config: Path, info: CheckpointInfo) -> None:
    """Keep the recipe of the user's own run, where what is published differs; without a home folder, do nothing."""
    if not info.own or published(info.recipe, info.models) == (info.recipe, info.models):
        return
    with suppress(OSError):
        path = _place(config)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(path, json.dumps({"recipe": info.recipe, "models": info.models}, indent=1))
        path.chmod(0o600)


def forget(config: Path) -> None:
    """Forget the recipe of a `config.json` that is about to be replaced by a later one of the same run."""
    with suppress(OSError):
        _place(config).unlink(missing_ok=True)


def recall(config: Path, info: CheckpointInfo) -> CheckpointInfo:
    """`info` with its own recipe, if the `config.json` it was read from was written by a run of this user."""
    with suppress(OSError, ValueError):
        path = _place(config)
        if _is_ours(path.parent) and _is_ours(path):
            kept = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(kept, dict) and all(isinstance(kept.get(key), dict) for key in ("recipe", "models")):
                return attrs.evolve(info, recipe=kept["recipe"], models=kept["models"], own=True)
    return info


def _place(config: Path) -> Path:
    home = Path(os.environ.get("XDG_STATE_HOME", ""))
    # A relative one means nothing, by the standard that the name is from.
    home = home if home.is_absolute() else Path.home() / ".local" / "state"
    return home / "crosscoders" / "recipes" / f"{sha256(config.read_bytes()).hexdigest()}.json"


def _is_ours(path: Path) -> bool:
    found: Any = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        return False
    return not hasattr(os, "getuid") or (found.st_uid == os.getuid() and not found.st_mode & 0o022)
