"""The sum of the squares of a large tensor, which is read once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

AT_ONCE = 2**30
"""Elements of one product: cuBLAS takes fewer than 2³¹."""


class _SumOfSquares(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        # The product of a tensor with itself reads it at twice the speed of its norm, and writes nothing.
        return torch.stack([torch.dot(part, part) for part in torch.split(x.flatten(), AT_ONCE)]).sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return x * (2 * grad)  # type: ignore[no-any-return]


def sum_of_squares(x: Tensor) -> Tensor:
    """Σ x², a scalar with gradient, of a tensor of any shape."""
    result: Tensor = _SumOfSquares.apply(x)  # type: ignore[no-untyped-call]
    return result
