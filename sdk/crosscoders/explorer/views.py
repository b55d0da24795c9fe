"""Data of the views beside the table: the diff, the layers, and snapshots of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .records import rounded

MOST_LINES = 20_000
"""Lines of latents that the view of a diff holds."""
MOST_CURVES = 2_000
"""Norm curves that the view of snapshots holds."""


def diff_view(lines: Mapping[int, str], note: str) -> dict[str, Any]:
    """A line in words for each latent of `lines`, the first ones where there are too many, and a sentence on all."""
    return {"lines": {str(j): lines[j] for j in list(lines)[:MOST_LINES]}, "note": note}


def layers_view(norms_FS: np.ndarray) -> bytes:
    """Norms at each site, a byte each (255 is the latent's largest), latent by latent."""
    largest_F1 = norms_FS.max(axis=1, keepdims=True)
    share_FS = np.divide(norms_FS, largest_F1, out=np.zeros_like(norms_FS), where=largest_F1 > 0)
    return bytes(np.rint(share_FS * 255).astype(np.uint8))


def snapshots_view(
    labels: Sequence[str], latents: Sequence[int], norms_FS: np.ndarray, groups: Sequence[str]
) -> dict[str, Any]:
    """Norm curves of latents, the first ones where there are too many, with the kind of each."""
    return {
        "labels": list(labels),
        "latents": list(latents)[:MOST_CURVES],
        "values": [[rounded(value) for value in row] for row in norms_FS[:MOST_CURVES].tolist()],
        "groups": list(groups)[:MOST_CURVES],
    }
