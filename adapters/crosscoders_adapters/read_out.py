"""What directions in the residual stream add to the logits directly, past all layers in between."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .placement import present


def direct_effect(head: Any, norm: nn.Module | None, direction_KD: Tensor) -> Tensor:
    """Directions (K, D) through the last norm, whose scale is left at 1, and the output embedding: (K, V) in fp32."""
    with present(head):
        unembedding = head.weight
        direction_KD = direction_KD.to(unembedding.device, torch.float32)
        if norm is not None:
            # Norms take away the length: give it back. What a norm makes of zero, its bias, does not count.
            # Directions go in long, so that the norm's epsilon does not count.
            rms_K1 = direction_KD.square().mean(dim=-1, keepdim=True).sqrt()
            if isinstance(norm, nn.LayerNorm):
                centred_KD = direction_KD - direction_KD.mean(dim=-1, keepdim=True)
                rms_K1 = centred_KD.square().mean(dim=-1, keepdim=True).sqrt()
            long_KD = (1e3 * direction_KD / rms_K1.clamp_min(1e-30)).to(unembedding.dtype)
            direction_KD = (norm(long_KD) - norm(torch.zeros_like(long_KD))).to(rms_K1) * rms_K1
        effect_KV: Tensor = direction_KD @ unembedding.float().T
    return effect_KV
