"""Random numbers as functions of token ids: the same on every machine, for any part of a world, in any order."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def uniform(ids_B: Tensor, count: int, *, stream: int) -> Tensor:
    """`count` numbers in [0, 1) for each id, (B, count); the same id and stream give the same ones on every machine."""
    index = torch.arange(count, device=ids_B.device, dtype=torch.int64) + stream * 1_000_003
    bits = _mix(_mix(ids_B.to(torch.int64))[:, None] + _mix(index)[None, :])
    return ((bits >> 40) & 0xFFFFFF).float() / 2**24


def normal(ids_B: Tensor, count: int, *, stream: int) -> Tensor:
    """`count` standard normal numbers for each id, (B, count), by the Box-Muller transform."""
    half = -(-count // 2)
    u = uniform(ids_B, 2 * half, stream=stream)
    radius = (-2 * (u[:, :half] + 2**-25).log()).sqrt()
    angle = 2 * math.pi * u[:, half:]
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :count]


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser on wrapping int64; shifts are made logical by masking."""
    z = z + -7046029254386353131
    z = (z ^ ((z >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    z = (z ^ ((z >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return z ^ ((z >> 31) & 0x1FFFFFFFF)
