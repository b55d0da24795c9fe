"""JSON that is kept in the user's home, under `$XDG_STATE_HOME/crosscoders`, for the user alone.

What belongs to a file that others may see, and is not for them, is kept here under that file's digest. What somebody
else could have written here is passed over. Without a home folder nothing is kept.
"""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import DiskError
from ..files import write_whole


def keep(kind: str, digest: str, data: Any) -> None:
    """Keep `data`, or do nothing where there is no home that can be written."""
    with suppress(OSError, DiskError):
        path = _place(kind, digest)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(path, json.dumps(data, indent=1))
        path.chmod(0o600)


def kept(kind: str, digest: str) -> dict[str, Any]:
    """The table that was kept; an empty one where there is none that surely is the user's."""
    with suppress(OSError, ValueError):
        path = _place(kind, digest)
        if _is_ours(path.parent) and _is_ours(path):
            data = json.loads(path.read_text(encoding="utf-8"))
            return data if isinstance(data, dict) else {}
    return {}


def drop(kind: str, digest: str) -> None:
    """Keep it no longer."""
    with suppress(OSError):
        _place(kind, digest).unlink(missing_ok=True)


def _place(kind: str, digest: str) -> Path:
    home = Path(os.environ.get("XDG_STATE_HOME", ""))
    # A relative one means nothing, by the standard that the name is from.
    home = home if home.is_absolute() else Path.home() / ".local" / "state"
    return home / "crosscoders" / kind / f"{digest}.json"


def _is_ours(path: Path) -> bool:
    found: Any = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        return False
    return not hasattr(os, "getuid") or (found.st_uid == os.getuid() and not found.st_mode & 0o022)
