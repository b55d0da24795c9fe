"""The optimizer that a config chooses, and clipping by the norm of the whole gradient."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..kernels import sum_of_squares
from ..processes import ALONE, Processes
from .config import TrainingConfig


def make_optimizer(config: TrainingConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Make the optimizer that `config.optimizer` names."""
    if config.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=config.lr, betas=config.betas, fused=True)
    if config.optimizer == "adafactor":
        return torch.optim.Adafactor(parameters, lr=config.lr)
    try:
        from bitsandbytes.optim import Adam8bit
    except ImportError as error:
        raise ConfigError("training.optimizer = 'adam_8bit' needs the extra crosscoders[adam-8bit]") from error
    optimizer: torch.optim.Optimizer = Adam8bit(parameters, lr=config.lr, betas=config.betas)
    return optimizer


def gradient_norm(
    parameters: Iterable[nn.Parameter], replicated: Sequence[nn.Parameter] = (), processes: Processes = ALONE
) -> Tensor:
    """The norm of the gradient of all `parameters`, over all shards; `replicated` parameters count once."""
    alike = {id(parameter) for parameter in replicated}
    own: list[Tensor] = []
    shared: list[Tensor] = []
    for parameter in parameters:
        if parameter.grad is not None:
            (shared if id(parameter) in alike else own).append(sum_of_squares(parameter.grad))
    return torch.stack([processes.over_shards(torch.stack(own).sum()), *shared]).sum().sqrt()


def scale_gradient(optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], factor: Tensor) -> None:
    """Make the next step of `optimizer` see the gradient multiplied by `factor`."""
    if isinstance(optimizer, torch.optim.Adam) and _SCALES_BY_ITSELF:
        # Fused Adam divides by this while it reads the gradient, which saves a pass over it.
        optimizer.grad_scale = 1 / factor  # type: ignore[attr-defined]
        optimizer.found_inf = torch.zeros_like(factor)  # type: ignore[attr-defined]
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if hasattr(torch, "_foreach_mul_"):
        torch._foreach_mul_(gradients, factor)
        return
    for gradient in gradients:
        gradient.mul_(factor)


def _scales_by_itself() -> bool:
    """Whether this torch's fused Adam looks at `grad_scale`, which is nowhere promised: tried on one number."""
    parameter = nn.Parameter(torch.zeros(1))
    moved = []
    for scale in (None, 2.0):
        try:
            optimizer = torch.optim.Adam([parameter], fused=True)
            parameter.grad = torch.ones(1)
            if scale:
                optimizer.grad_scale = torch.tensor(scale)  # type: ignore[attr-defined]
                optimizer.found_inf = torch.zeros(())  # type: ignore[attr-defined]
            optimizer.step()
            moved.append(float(optimizer.state[parameter]["exp_avg"]))
        except Exception:  # whatever another torch says
            return False
    return moved[0] == 2 * moved[1] != 0


_SCALES_BY_ITSELF = _scales_by_itself()
