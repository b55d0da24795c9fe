"""The files that pages share, from the package."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

SHARED = {
    "palette.css": "palette.css",
    "show.js": "show.js",
    "htm-preact-standalone.umd.js": "vendor/htm-preact-standalone.umd.js",
    "LICENSE-htm.txt": "vendor/LICENSE-htm.txt",
    "LICENSE-preact.txt": "vendor/LICENSE-preact.txt",
}
"""File in the assets of a page: where it is in this room."""


def asset(name: str) -> str:
    """The text of one of the files `SHARED`."""
    return files("crosscoders.pages").joinpath(SHARED[name]).read_text(encoding="utf-8")


def digest(text: str) -> str:
    """The SHA-256 of a text in base64, as a content security policy names a script or a style."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
