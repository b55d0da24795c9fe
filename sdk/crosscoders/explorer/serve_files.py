"""Which files the live server shows: those of a dashboard's folder, and of the package, and none besides."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from ..checkpoints.dashboard import finished_facts
from ..crosscoder.module import Crosscoder
from ..errors import AnalysisError, listed, shown
from ..pages import asset

TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".json": "application/json",
    ".md": "text/plain",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}
"""Kinds of files that pages are made of; others are not shown."""
LIVE = ("live.css", "live.html", "live.js", "panels.css", "panels.js")
SHARED = ("htm-preact-standalone.umd.js", "palette.css", "show.js")
PANELS = '<link rel="stylesheet" href="live/panels.css">\n<script src="live/panels.js"></script>\n'
"""What a page has in its head to show the panels."""


def checked_dashboard(folder: Path, crosscoder: Crosscoder) -> Path:
    """The folder of a finished dashboard of this crosscoder; `CheckpointError` or `AnalysisError` where it is not
    one."""
    facts = finished_facts(folder)
    sites = facts.get("sites")
    names = [site.get("name") for site in sites if isinstance(site, dict)] if isinstance(sites, list) else []
    if facts.get("num_latents") != crosscoder.num_latents or names != list(crosscoder.layout.names):
        raise AnalysisError(
            f"the dashboard {folder} is of another crosscoder: {shown(facts.get('num_latents'))} latents over "
            f"{listed([shown(name) for name in names], ', ') or 'no sites'}, and not {crosscoder.num_latents} over "
            f"{listed(crosscoder.layout.names, ', ')}"
        )
    return folder.resolve()


def confined(folder: Path, path: str) -> Path | None:
    """The file that `path` means below `folder`; None where there is none to be shown.

    No path leads out: not by `..`, an absolute part or a backslash, nor over a link to elsewhere. Hidden files are not
    shown.
    """
    parts = path.split("/")
    if any(not part or part.startswith(".") or re.search(r"[\\:\x00-\x1f]", part) for part in parts):
        return None
    if Path(parts[-1]).suffix not in TYPES:
        return None
    try:
        found = folder.joinpath(*parts).resolve(strict=True)
    except (OSError, RuntimeError, ValueError):
        return None
    return found if found.is_relative_to(folder.resolve()) and found.is_file() else None


def with_panels(page: str) -> str:
    """A dashboard's first page with the panels in its head."""
    head, end, rest = page.partition("</head>")
    if not end:
        raise AnalysisError("the dashboard's index.html has no head")
    return f"{head}{PANELS}{end}{rest}"


def own_file(name: str) -> str | None:
    """The text of one of the package's files for live pages; None for another name."""
    if name in SHARED:
        return asset(name)
    if name in LIVE:
        return files("crosscoders.explorer").joinpath("live", name).read_text(encoding="utf-8")
    return None
