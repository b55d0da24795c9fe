"""The optimizer and the norm of the gradient."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The norm of the gradient of all `parameters` together."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    # A product of the gradient with itself reads it at twice the speed of the norm.
    return torch.stack([torch.dot(g.flatten(), g.flatten()) for g in gradients]).sum().sqrt()
