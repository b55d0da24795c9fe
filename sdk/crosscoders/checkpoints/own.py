"""Which recipes are the user's own: remembered in their home when their own run saves a crosscoder.

What is published of a run has no local paths, and a folder's recipe may be anybody's. So what a user's own runs read is
kept beside neither, but in the home, by the digest of the `config.json` that it belongs to.
"""

from __future__ import annotations

from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import attrs

from ..crosscoder.info import CheckpointInfo
from ..privacy.home import drop, keep, kept
from ..privacy.local import published

KIND = "recipes"


def remember(config: Path, info: CheckpointInfo) -> None:
    """Keep the recipe of the user's own run, where what is published differs."""
    if info.own and published(info.recipe, info.models) != (info.recipe, info.models):
        keep(KIND, _digest(config), {"recipe": info.recipe, "models": info.models})


def forget(config: Path) -> None:
    """Forget the recipe of a `config.json` that is about to be replaced by a later one of the same run."""
    with suppress(OSError):
        drop(KIND, _digest(config))


def recall(config: Path, info: CheckpointInfo) -> CheckpointInfo:
    """`info` with its own recipe, if the `config.json` it was read from was written by a run of this user."""
    with suppress(OSError):
        own = kept(KIND, _digest(config))
        if all(isinstance(own.get(key), dict) for key in ("recipe", "models")):
            return attrs.evolve(info, recipe=own["recipe"], models=own["models"], own=True)
    return info


def _digest(config: Path) -> str:
    return sha256(config.read_bytes()).hexdigest()
