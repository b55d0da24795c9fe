"""Explanations that stay beside the crosscoder whose latents they explain."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..crosscoder.explanations import EXPLANATIONS, write_explanations
from ..crosscoder.latents import known_latents
from ..crosscoder.module import Crosscoder
from ..errors import AnalysisError


def keep_explanations(
    crosscoder: Crosscoder, found: Mapping[int, str | Mapping[str, Any]]
) -> tuple[dict[int, str], Path | None]:
    """Add explanations to the crosscoder's own and to the folder that it was loaded from; see `Study.explain`.

    Returns the texts by latent, and the file where there is a folder.
    """
    known_latents(list(found), crosscoder.num_latents)
    entries = {j: {"explanation": entry} if isinstance(entry, str) else dict(entry) for j, entry in found.items()}
    for j, entry in entries.items():
        if not isinstance(entry.get("explanation"), str):
            raise AnalysisError(f"what latent {j} responds to should be text, not {entry.get('explanation')!r}")
    texts = {j: entry["explanation"] for j, entry in entries.items()}
    info = crosscoder.info
    if info is None:
        return texts, None
    info.explanations.update(entries)
    if info.folder is None or not info.folder.is_dir():
        return texts, None
    path = info.folder / EXPLANATIONS
    write_explanations(path, info.explanations, [site.name for site in crosscoder.sites])
    return texts, path
