"""Random numbers as functions of token ids: the same on every machine, for any part of a world, in any order."""

from __future__ import annotations

import math

import torch
from torch import Tensor

PIECE = 16_384
"""Numbers that are made at a time."""


def uniform(ids_B: Tensor, count: int, *, stream: int) -> Tensor:
    """`count` numbers in [0, 1) for each id, (B, count); the same id and stream give the same ones on every machine."""
    index = torch.arange(count, device=ids_B.device, dtype=torch.int64) + stream * 1_000_003
    columns, found = _mix(index), torch.empty(len(ids_B), count, device=ids_B.device)
    # A piece at a time stays in the processor's cache.
    rows = max(1, PIECE // max(1, count))
    for ids, piece in zip(torch.split(_mix(ids_B.to(torch.int64)), rows), torch.split(found, rows), strict=True):
        bits = _mix(ids[:, None] + columns)
        piece.copy_((bits >> 40).bitwise_and_(0xFFFFFF))
    return found.div_(2**24)


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
    z.bitwise_xor_((z >> 30).bitwise_and_(0x3FFFFFFFF)).mul_(-4658895280553007687)
    z.bitwise_xor_((z >> 27).bitwise_and_(0x1FFFFFFFFF)).mul_(-7723592293110705685)
    return z.bitwise_xor_((z >> 31).bitwise_and_(0x1FFFFFFFF))
