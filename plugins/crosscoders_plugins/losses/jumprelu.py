"""JumpReLU: each latent is on above its own threshold, which is learned with straight-through gradients.

f = pre · 1[pre > θ]. There are two penalties:

* `tanh` (Anthropic, January 2025 update): λ_S · mean Σ_i tanh(c f_i n_i) with n_i = Σ_s‖d_i^s‖, λ_S rising over the
  whole run; straight-through gradients reach the pre-activations too.
* `quadratic` (Rajamanoharan et al. 2024 and Gemma Scope 2): λ (L0 / L0* − 1)², whose gradient reaches only θ.

Both add λ_P · mean Σ_i ReLU(θ_i − pre_i) n_i on *pre*-activations, which revives latents that never fire.

θ is a plain fp32 parameter: as exp(t) from a small start, Adam would move it by only about θ·lr per step, and L0 would
not react. Bandwidths are in units of pre-activations, which are of order one if inputs have norm √D; the published
0.001 is for inputs of unit mean square.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from attrs import field, frozen
from attrs.validators import and_, ge, gt, in_, le
from torch import Tensor, nn

from crosscoders import Activation, ComposedLoss, Crosscoder, ForwardPass, Gate, JumpReluGate, LossConfig, StepContext

from .l0_control import L0Control, check_target


@frozen(kw_only=True)
class JumpReluConfig(LossConfig):
    """Options of the loss with learned thresholds."""

    penalty: str = field(default="tanh", validator=in_(("tanh", "quadratic")))
    """Form of the sparsity penalty: `tanh` penalises activations, and `quadratic` the deviation of L0 from its
    target."""
    weight: float = field(default=2.0, validator=ge(0.0))
    """Weight of the sparsity penalty: λ_S of `tanh`, or λ of `quadratic`. The published value for `tanh` is 20, for
    errors summed over thousands of dimensions."""
    ramp_share: float = field(default=1.0, validator=and_(ge(0.0), le(1.0)))
    """Share of the run over which the weight of the sparsity penalty rises linearly from 0."""
    target_l0: float = field(default=0.0, validator=ge(0.0))
    """Number of active latents per token to aim for: L0* of `quadratic`, which needs it; with `tanh`, a target towards
    which λ_S is adjusted, or 0 to leave it alone."""
    tanh_scale: float = field(default=4.0, validator=gt(0.0))
    """c, the factor inside the tanh: activations well above 1/c cost about the same."""
    pre_weight: float = field(default=3e-6, validator=ge(0.0))
    """λ_P, the weight of the penalty on pre-activations below their thresholds."""
    threshold: float = field(default=0.1, validator=gt(0.0))
    """θ, the threshold of every latent when training starts."""
    threshold_speed: float = field(default=1.0, validator=gt(0.0))
    """Adam moves θ by about this multiple of the learning rate per step; short runs at small learning rates need
    more."""
    bandwidth: float = field(default=0.5, validator=gt(0.0))
    """Width of the window around θ in which pre-activations give it a gradient."""
    decoder_norm: float = field(default=0.1, validator=gt(0.0))
    """Norm of decoder rows at each site when training starts."""

    def __attrs_post_init__(self) -> None:
        if self.penalty == "quadratic" and not self.target_l0:
            raise ValueError("the penalty 'quadratic' needs target_l0")


class JumpRelu(ComposedLoss):
    """Loss `jumprelu`."""

    shardable = True
    options: JumpReluConfig
    raw_F: nn.Parameter

    def __init__(self, options: JumpReluConfig) -> None:
        super().__init__(options)
        self.decoder_norm = options.decoder_norm
        self.firing_threshold = options.threshold
        self.control = L0Control(options.target_l0 if options.penalty == "tanh" else 0.0)

    def attach(self, crosscoder: Crosscoder) -> None:
        super().attach(crosscoder)
        check_target(self.options.target_l0, crosscoder)
        start = self.options.threshold / self.options.threshold_speed
        self.raw_F = nn.Parameter(torch.full((crosscoder.num_latents,), start, device=crosscoder.device))

    @property
    def threshold_F(self) -> Tensor:
        """θ, the threshold of each latent, (F,)."""
        return self.options.threshold_speed * self.raw_F

    def activate(self, crosscoder: Crosscoder, read_BX: Tensor, step: StepContext) -> Activation:
        pre_BF = crosscoder.pre_activations(read_BX)
        tanh = self.options.penalty == "tanh"
        f_BF = _JumpRelu.apply(pre_BF, self.threshold_F, self.options.bandwidth, tanh)  # type: ignore[no-untyped-call]
        return Activation(f_BF, pre_BF=pre_BF)

    def penalties(self, forward_pass: ForwardPass, step: StepContext) -> Mapping[str, Tensor]:
        pre_BF, f_BF = forward_pass.active.pre_BF, forward_pass.active.f_BF
        assert pre_BF is not None and f_BF is not None
        norm_F = forward_pass.crosscoder.decoder_norms().sum(dim=1)
        weight = self.options.weight * step.ramp(self.options.ramp_share)
        if self.options.penalty == "tanh":
            weight *= float(self.control.factor)
            self.control.update(f_BF.count_nonzero(), step)
            sparsity = step.mean(step.over_latents((self.options.tanh_scale * f_BF * norm_F).tanh().sum()))
        else:
            sparsity = self._quadratic(pre_BF, step)
        below_BF = (self.threshold_F - pre_BF).relu()
        return {
            "sparsity": weight * sparsity,
            "pre_activation": self.options.pre_weight
            * step.mean(step.over_latents((below_BF.sum(dim=0) * norm_F).sum())),
        }

    @torch.no_grad()
    def start_from(self, gate: Gate) -> None:
        if isinstance(gate, JumpReluGate):
            self.raw_F.copy_(gate.threshold_F / self.options.threshold_speed)

    def gate(self) -> Gate:
        gate = JumpReluGate(len(self.threshold_F))
        gate.threshold_F.copy_(self.threshold_F.detach().clamp_min(0))
        return gate

    def _quadratic(self, pre_BF: Tensor, step: StepContext) -> Tensor:
        step_BF = _Step.apply(pre_BF, self.threshold_F, self.options.bandwidth)  # type: ignore[no-untyped-call]
        count = step_BF.sum()
        # The squared deviation is of the mean L0 over all processes; each process contributes its share of the
        # gradient.
        l0 = step.global_mean(count)
        excess = l0 / self.options.target_l0 - 1
        mine = step.mean(count)
        return excess.square() + 2 * excess / self.options.target_l0 * (mine - mine.detach())


def _window(pre_BF: Tensor, threshold_F: Tensor, bandwidth: float) -> Tensor:
    """The rectangle kernel divided by its width, which replaces the derivative of the step function."""
    return ((pre_BF - threshold_F).abs() < bandwidth / 2).to(pre_BF.dtype) / bandwidth


class _JumpRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre_BF: Tensor, threshold_F: Tensor, bandwidth: float, through_input: bool) -> Tensor:
        ctx.save_for_backward(pre_BF, threshold_F)
        ctx.bandwidth, ctx.through_input = bandwidth, through_input
        return pre_BF * ((pre_BF > threshold_F) & (pre_BF > 0))

    @staticmethod
    def backward(ctx: Any, grad_BF: Tensor) -> tuple[Tensor, Tensor, None, None]:
        pre_BF, threshold_F = ctx.saved_tensors
        jump_BF = threshold_F * _window(pre_BF, threshold_F, ctx.bandwidth)
        on_BF = ((pre_BF > threshold_F) & (pre_BF > 0)).to(grad_BF.dtype)
        grad_pre_BF = grad_BF * (on_BF + jump_BF if ctx.through_input else on_BF)
        return grad_pre_BF, -(grad_BF * jump_BF).sum(dim=0), None, None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre_BF: Tensor, threshold_F: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre_BF, threshold_F)
        ctx.bandwidth = bandwidth
        return ((pre_BF > threshold_F) & (pre_BF > 0)).to(pre_BF.dtype)

    @staticmethod
    def backward(ctx: Any, grad_BF: Tensor) -> tuple[None, Tensor, None]:
        pre_BF, threshold_F = ctx.saved_tensors
        return None, -(grad_BF * _window(pre_BF, threshold_F, ctx.bandwidth)).sum(dim=0), None
