"""A study's latents as files in the layout of delphi's cache, for its pipelines of automatic interpretation.

    FOLDER/crosscoder/config.json
    FOLDER/crosscoder/START_STOP.safetensors     latents START to STOP, both included

Each file has `locations` (N, 3), row, position and latent counted from START, `activations` (N,) of the tokens that
count, and `tokens` (rows, positions), padded with 0 where a row is shorter. uint16 where all numbers fit, else uint32;
activations are half precision where they fit.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from ..errors import AnalysisError
from ..files import disk_errors, whole_folder, write_whole

if TYPE_CHECKING:
    from .study import Study

NAME = "crosscoder"


@torch.no_grad()
def write_latents(study: Study, folder: Path, *, splits: int) -> Path:
    """See `Study.write_latents`."""
    num_latents = study.crosscoder.num_latents
    if not 1 <= splits <= num_latents:
        raise AnalysisError(f"splits should be 1 to {num_latents}, the number of latents, and not {splits}")
    if folder.exists():
        raise AnalysisError(f"{folder} exists already; name a new folder")
    places, values, rows = [], [], []
    for batch in study.batches():
        found = batch.latents
        place_N2 = batch.place_B2[found.token_N].cpu()
        place_N2[:, 0] += batch.first_sequence
        places.append(torch.cat([place_N2, found.latent_N.cpu()[:, None]], dim=1))
        values.append(found.value_N.cpu().float())
        rows.append(batch.tokens.ids.cpu().masked_fill(~batch.tokens.attention.cpu(), 0))
    if not rows:
        raise AnalysisError("the study has no tokens")
    width = max(ids.shape[1] for ids in rows)
    tokens = torch.cat([functional.pad(ids, (0, width - ids.shape[1])) for ids in rows])
    place_N3, value_N = torch.cat(places), torch.cat(values)
    edges = torch.linspace(0, num_latents, splits + 1).long().tolist()
    with disk_errors(folder), whole_folder(folder) as partial:
        (partial / NAME).mkdir(parents=True)
        for start, stop in pairwise(edges):
            mine_N = (place_N3[:, 2] >= start) & (place_N3[:, 2] < stop)
            here_N3 = place_N3[mine_N] - torch.tensor([0, 0, start])
            save_file(
                {"locations": _unsigned(here_N3), "activations": _half(value_N[mine_N]), "tokens": tokens},
                partial / NAME / f"{start}_{stop - 1}.safetensors",
            )
        write_whole(partial / NAME / "config.json", json.dumps(_config(study, tokens, splits), indent=4))
    return folder


def _unsigned(place_N3: Tensor) -> Tensor:
    fits = not len(place_N3) or int(place_N3.max()) < 2**16
    return place_N3.to(torch.uint16 if fits else torch.uint32).contiguous()


def _half(value_N: Tensor) -> Tensor:
    fits = not len(value_N) or float(value_N.max()) <= torch.finfo(torch.float16).max
    return value_N.half() if fits else value_N


def _config(study: Study, tokens: Tensor, splits: int) -> dict[str, Any]:
    """What the cache's readers ask for: which tokenizer and context, and where text would be read again from."""
    recipe = study.crosscoder.info.recipe if study.crosscoder.info else {}
    source = recipe.get("tokens", {}) if isinstance(recipe.get("tokens"), dict) else {}
    return {
        "model_name": str(study.reading.describe().get("model", "")),
        "dataset_repo": str(source.get("dataset", source.get("name", ""))),
        "dataset_split": str(source.get("split", "")),
        "dataset_name": str(source.get("config", "")),
        "dataset_column": str(source.get("column", "")),
        "batch_size": study.activations.rows_per_forward,
        "ctx_len": tokens.shape[1],
        "cache_ctx_len": tokens.shape[1],
        "n_tokens": tokens.numel(),
        "n_splits": splits,
        "width": study.crosscoder.num_latents,
    }
