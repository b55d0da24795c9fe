"""Which latents are meant: by number, all of them, or those that belong most to one model or site."""

from __future__ import annotations

import re

import torch

from ..crosscoder.latents import known_latents
from ..crosscoder.module import Crosscoder
from ..errors import LatentError, shown


def selected_latents(crosscoder: Crosscoder, text: str) -> list[int] | None:
    """The latents that a text means: `all` (None), `1,5,7-9`, or `specific:200`; `LatentError` for anything else."""
    text = text.strip()
    if text == "all":
        return None
    if match := re.fullmatch(r"specific:(\d+)", text):
        return most_specific(crosscoder, int(match[1]))
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,12})(?:\s*-\s*(\d{1,12}))?\s*", part)
        if match is None or (match[2] and int(match[2]) < int(match[1])):
            raise LatentError(
                f"latents are named as 'all', by numbers such as '1,5,7-9', or as 'specific:200', not as {shown(text)}"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        known_latents([first, last], crosscoder.num_latents)
        found += range(first, last + 1)
    return sorted(set(found))


@torch.no_grad()
def most_specific(crosscoder: Crosscoder, count: int) -> list[int]:
    """The `count` latents whose norms lie most at one model, or at one site where there is one model, by number."""
    if count < 1:
        raise LatentError("specific:N should ask for at least one latent")
    written = crosscoder.written
    width_S = torch.tensor([float(site.width) for site in written.sites]).sqrt()
    norms_FS = crosscoder.decoder_norms().float().cpu() / width_S
    of_models = [
        norms_FS[:, [site.model == model for site in written.sites]].mean(dim=1) for model in written.points_by_model
    ]
    parts_FM = torch.stack(of_models, dim=1) if len(of_models) > 1 else norms_FS
    leaning_F = (parts_FM / parts_FM.sum(dim=1, keepdim=True)).amax(dim=1).nan_to_num(0.0)
    return sorted(leaning_F.argsort(descending=True, stable=True)[:count].tolist())
