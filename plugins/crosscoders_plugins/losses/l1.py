"""L1 with decoder norms: λ · mean over tokens of Σ_i f_i Σ_s‖d_i^s‖ (Lindsey et al. 2024, §2)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from attrs import field, frozen
from attrs.validators import and_, ge, gt, in_, le
from torch import Tensor

from crosscoders import Activation, ComposedLoss, Crosscoder, ForwardPass, Gate, LossConfig, ReluGate, StepContext
from crosscoders.authoring import find_candidates

from .l0_control import L0Control, check_target

SPARSE_BELOW = {"cpu": 1 / 16, "cuda": 1 / 300}
"""Share of active latents below which sparse products are faster than dense ones: measured in `bench/engine` for CPUs,
estimated by arithmetic for GPUs."""


@frozen(kw_only=True)
class L1Config(LossConfig):
    """Options of the L1 penalty on activations times decoder norms."""

    weight: float = field(default=2.0, validator=ge(0.0))
    """λ, the weight of the penalty, relative to squared errors summed over sites and widths in normalised space.
    Kissane et al. use 2."""
    ramp_share: float = field(default=0.05, validator=and_(ge(0.0), le(1.0)))
    """Share of the run over which λ rises linearly from 0."""
    norm: str = field(default="l1", validator=in_(("l1", "l2")))
    """Decoder norm in the penalty. `l1` is Σ_s‖d^s‖, which treats sites fairly; `l2` is the norm of the concatenated
    row, as in an SAE on the concatenation of all sites."""
    target_l0: float = field(default=0.0, validator=ge(0.0))
    """Number of active latents per token towards which λ is adjusted; 0 leaves λ alone."""
    decoder_norm: float = field(default=0.1, validator=gt(0.0))
    """Norm of decoder rows at each site when training starts."""


class L1(ComposedLoss):
    """Loss `l1`; the decoder norms in the penalty carry gradients."""

    shardable = True
    options: L1Config
    density: Tensor

    def __init__(self, options: L1Config) -> None:
        super().__init__(options)
        self.decoder_norm = options.decoder_norm
        self.control = L0Control(options.target_l0)
        self.register_buffer("density", torch.ones(()))

    def attach(self, crosscoder: Crosscoder) -> None:
        super().attach(crosscoder)
        check_target(self.options.target_l0, crosscoder)

    def activate(self, crosscoder: Crosscoder, read_BX: Tensor, step: StepContext) -> Activation:
        # Training starts with dense products. The density of the previous step says which way is faster.
        if float(self.density) > SPARSE_BELOW["cpu" if read_BX.device.type == "cpu" else "cuda"]:
            active = Activation(crosscoder.pre_activations(read_BX).relu())
        else:
            above = find_candidates(crosscoder, read_BX, torch.zeros_like(crosscoder.b_enc_F))
            latents = above.select(above.value_N > 0)
            active = Activation(sparse=(latents, crosscoder.values(read_BX, latents)))
        if self.training:
            self.density.fill_(active.num_active / max(1, len(read_BX) * crosscoder.num_latents))
        return active

    def penalties(self, forward_pass: ForwardPass, step: StepContext) -> Mapping[str, Tensor]:
        norms_FS = forward_pass.crosscoder.decoder_norms()
        norm_F = norms_FS.sum(dim=1) if self.options.norm == "l1" else norms_FS.norm(dim=1)
        weight = self.weight(step) * float(self.control.factor)
        self.control.update(torch.tensor(float(forward_pass.active.num_active), device=norm_F.device), step)
        charge_F = forward_pass.active.total_F() * norm_F
        return {"sparsity": weight * step.mean(step.over_latents(self.charge(charge_F, forward_pass.crosscoder)))}

    def charge(self, charge_F: Tensor, crosscoder: Crosscoder) -> Tensor:
        """The total penalty, from the penalty of each latent."""
        return charge_F.sum()

    def weight(self, step: StepContext) -> float:
        """λ at this step, before it is adjusted to reach `target_l0`."""
        return self.options.weight * step.ramp(self.options.ramp_share)

    def gate(self) -> Gate:
        return ReluGate()
