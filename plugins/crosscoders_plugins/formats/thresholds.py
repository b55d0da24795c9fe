"""Thresholds on latents themselves, for libraries that know no scores."""

from __future__ import annotations

import torch
from torch import Tensor

from crosscoders import CheckpointError, Crosscoder

LARGEST = torch.finfo(torch.float32).max


def raw_thresholds(crosscoder: Crosscoder) -> Tensor:
    """What each latent's activation must exceed, (F,); the largest number where a latent writes nothing."""
    gate = crosscoder.gate
    if gate.name == "relu":
        return torch.zeros(crosscoder.num_latents)
    if gate.name == "jumprelu":
        # Ours are behind a relu; where there is none, a threshold below 0 would let negative latents through.
        return gate.get_buffer("threshold_F").detach().float().cpu().clamp_min(0)
    if gate.name == "score_threshold":
        norm_F = crosscoder.score_norms().cpu()
        bound = gate.get_buffer("threshold").cpu().clamp_min(0)
        return torch.where(norm_F > 0, bound / norm_F.clamp_min(1e-30), LARGEST)
    raise CheckpointError(f"the gate '{gate.name}' has no threshold for each latent")
