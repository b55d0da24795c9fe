"""What latents respond to, in words: the file `explanations.json` beside a crosscoder's weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import CrosscodersError
from ..files import write_whole
from ..reading import read_json

EXPLANATIONS = "explanations.json"

Explanations = dict[int, dict[str, Any]]
"""By latent: its `explanation`, and whatever else was found with it, such as scores."""


def read_explanations(path: Path, num_latents: int, error: type[CrosscodersError]) -> Explanations:
    """The explanations of a file; `error` says what is wrong with it, `FileNotFoundError` is left to the caller."""
    content = read_json(path, error)
    latents = content.get("latents") if isinstance(content, Mapping) else None
    if not isinstance(latents, Mapping):
        raise error(f"{path} has no explanations: it should be a table with the key latents")
    found: Explanations = {}
    for name, entry in latents.items():
        known = name.isascii() and name.isdigit() and str(int(name)) == name and int(name) < num_latents
        if not known or not isinstance(entry, Mapping) or not isinstance(entry.get("explanation"), str):
            raise error(f"{path} has an entry '{name[:40]}' that does not explain one of the {num_latents} latents")
        found[int(name)] = dict(entry)
    return found


def write_explanations(path: Path, found: Mapping[int, Mapping[str, Any]], sites: Sequence[str]) -> None:
    """Write explanations by latent, each a table with an `explanation`, whole or not at all; `DiskError` where the disk
    does not take it.

    `sites` are those that the crosscoder writes. `Study.read_explanations` reads the file.
    """
    latents = {str(j): dict(found[j]) for j in sorted(found)}
    text = json.dumps({"sites": list(sites), "latents": latents}, indent=1, ensure_ascii=False)
    # What a model answers may hold half of a character.
    write_whole(path, text.encode("utf-8", "replace").decode("utf-8") + "\n")
