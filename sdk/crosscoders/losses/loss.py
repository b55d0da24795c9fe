"""The interface of losses: what they receive at each step, what they return, and how they are composed.

Any subclass of `Loss` is a loss. Most derive from `ComposedLoss`: they say which latents are on and what that costs,
while the base class provides reconstruction, site masking, and the extra terms that a config chooses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property

import torch
from attrs import field, frozen
from attrs.validators import and_, ge, in_, lt
from torch import Tensor, nn

from ..converters import as_tuple
from ..crosscoder.gates import Gate
from ..crosscoder.latents import Latents
from ..crosscoder.module import Crosscoder
from ..kernels import sum_of_squares, sums_by_latent
from ..plugins.choices import LossTermChoice
from .context import StepContext


@frozen(kw_only=True, eq=False)
class LossOutput:
    """The result of a loss: named terms, which the runner sums, and what the metrics need."""

    terms: dict[str, Tensor]
    """The terms of the loss: scalars with gradient, each a mean over the tokens of the global batch."""
    fired_F: Tensor
    """Boolean mask of the latents that are active on at least one token of this process."""
    num_active: Tensor
    """The number of active (token, latent) pairs on this process."""
    residual_BX: Tensor
    """Target minus reconstruction, in normalised units, detached."""

    @classmethod
    def from_dense(cls, terms: dict[str, Tensor], f_BF: Tensor, residual_BX: Tensor) -> LossOutput:
        """Make the output of a loss with dense activations."""
        active_BF = f_BF.detach() > 0
        return cls(
            terms=terms,
            fired_F=active_BF.any(dim=0),
            num_active=active_BF.count_nonzero(),
            residual_BX=residual_BX.detach(),
        )

    @classmethod
    def from_sparse(cls, terms: dict[str, Tensor], latents: Latents, residual_BX: Tensor) -> LossOutput:
        """Make the output of a loss with sparse latents."""
        return cls(
            terms=terms,
            fired_F=latents.fired_F,
            # Filled on the device: a number that is copied there waits for it.
            num_active=latents.latent_N.new_full((), len(latents.latent_N)),
            residual_BX=residual_BX.detach(),
        )


class Loss(nn.Module, ABC):
    """A sparsity objective. Its parameters are trained; its buffers (thresholds, counters) are saved with a run."""

    decoder_norm: float
    """Norm of each latent's decoder row at each site when training starts."""
    shardable: bool = False
    """Whether the loss supports latents sharded over processes (`training.shards`). If so, whatever it sums over
    latents must go through `StepContext.over_latents`."""
    firing_threshold: float = 0.0
    """Pre-activation above which a latent is on when training starts; needed to set encoder biases from data."""

    def attach(self, crosscoder: Crosscoder) -> None:
        """Create the parameters and buffers whose size depends on the crosscoder; called once, before training."""

    def start_from(self, gate: Gate) -> None:
        """Take over the thresholds of a trained crosscoder's gate, where a run starts from its weights.

        A loss with other thresholds than this gate has keeps its own.
        """

    @abstractmethod
    def forward(self, crosscoder: Crosscoder, x_BX: Tensor, step: StepContext) -> LossOutput:
        """Compute the terms for normalised activations `x_BX` of this process's tokens of the global batch."""

    @abstractmethod
    def gate(self) -> Gate:
        """The gate for inference at the current state of training."""


@frozen(eq=False, slots=False)
class Activation:
    """Which latents are on for a batch, and their values with gradient, in dense or in sparse form."""

    f_BF: Tensor | None = None
    """Dense activations with gradient; None for losses that select sparse latents."""
    sparse: tuple[Latents, Tensor] | None = None
    """The selected latents, and their values with gradient; None for losses with dense activations."""
    pre_BF: Tensor | None = None
    """Pre-activations with gradient, for losses whose penalties need them."""

    @cached_property
    def latents(self) -> Latents:
        """The latents that are on, detached."""
        if self.sparse is not None:
            return self.sparse[0]
        assert self.f_BF is not None
        return Latents.from_mask(self.f_BF.detach() > 0, self.f_BF.detach())

    @cached_property
    def num_active(self) -> int:
        """The number of (token, latent) pairs that are on."""
        if self.sparse is not None:
            return len(self.sparse[0].latent_N)
        assert self.f_BF is not None
        return int(self.f_BF.count_nonzero())

    @cached_property
    def value_N(self) -> Tensor:
        """The values of `latents`, with gradient, (N,)."""
        if self.sparse is not None:
            return self.sparse[1]
        assert self.f_BF is not None
        return self.f_BF[self.latents.token_N, self.latents.latent_N]

    def total_F(self) -> Tensor:
        """The sum of f over tokens for each latent, with gradient, (F,)."""
        if self.f_BF is not None:
            return self.f_BF.sum(dim=0)
        return sums_by_latent(self.value_N, self.latents)

    def decode(self, crosscoder: Crosscoder, read_BX: Tensor) -> Tensor:
        """The reconstruction in normalised units."""
        if self.f_BF is not None:
            return crosscoder.decode_normalised(self.f_BF, read_BX)
        return crosscoder.decode_normalised(self.latents, read_BX, value_N=self.value_N)

    def contribution(self, crosscoder: Crosscoder, keep_F: Tensor) -> Tensor:
        """What only the latents in the boolean mask `keep_F` add to the reconstruction, without bias."""
        if self.f_BF is not None:
            return crosscoder.decode_without_bias(self.f_BF * keep_F)
        keep_N = keep_F[self.latents.latent_N]
        return crosscoder.decode_without_bias(self.latents.select(keep_N), value_N=self.value_N[keep_N])


@frozen(kw_only=True, eq=False)
class ForwardPass:
    """One forward pass of a loss, as its terms see it. All tensors are in normalised space."""

    crosscoder: Crosscoder
    x_BX: Tensor
    """Normalised activations of all sites."""
    read_BX: Tensor
    """Normalised activations as the encoder saw them, that is, zero at masked sites."""
    active: Activation
    """Which latents are on."""
    residual_BX: Tensor
    """Target minus reconstruction, with gradient."""


class LossTerm(nn.Module, ABC):
    """An extra term that a config adds to a loss."""

    def attach(self, crosscoder: Crosscoder) -> None:
        """Like `Loss.attach`; raise `ConfigError` here if the term is not defined for the crosscoder."""

    @abstractmethod
    def forward(self, forward_pass: ForwardPass, step: StepContext) -> Tensor:
        """Compute the term: a scalar with gradient, weight included, averaged over the tokens of the global batch."""


@frozen(kw_only=True)
class LossConfig:
    """Options that all composed losses have in common."""

    reconstruction: str = field(default="sum_sq", validator=in_(("sum_sq", "mean_l2")))
    """Form of the reconstruction term. `sum_sq` sums squared errors over sites and widths. `mean_l2` averages unsquared
    error norms over sites, as the public code of Minder et al. 2025 does. Weights of penalties do not carry over from
    one to the other."""
    site_masking: float = field(default=0.0, validator=and_(ge(0.0), lt(1.0)))
    """Probability with which each site of each token is hidden from the encoder in training. Targets are not masked
    (after fmxcoders)."""
    terms: tuple[LossTermChoice, ...] = field(default=(), converter=as_tuple)
    """Additional loss terms, each a table `{name = ..., weight = ...}`."""


class ComposedLoss(Loss):
    """The base of most losses: subclasses say which latents are on (`activate`) and what they cost (`penalties`)."""

    def __init__(self, options: LossConfig) -> None:
        super().__init__()
        self.options = options
        self.terms = nn.ModuleDict()
        for number, choice in enumerate(options.terms):
            key = choice.name.partition(":")[2] or choice.name
            self.terms[f"{key}_{number}" if key in self.terms else key] = choice.build()

    @abstractmethod
    def activate(self, crosscoder: Crosscoder, read_BX: Tensor, step: StepContext) -> Activation:
        """Decide which latents are on."""

    def penalties(self, forward_pass: ForwardPass, step: StepContext) -> Mapping[str, Tensor]:
        """Named terms besides the reconstruction."""
        return {}

    def attach(self, crosscoder: Crosscoder) -> None:
        for term in self.terms.values():
            term.attach(crosscoder)  # type: ignore[operator]

    def forward(self, crosscoder: Crosscoder, x_BX: Tensor, step: StepContext) -> LossOutput:
        read_BX = self._masked(crosscoder, x_BX, step)
        active = self.activate(crosscoder, read_BX, step)
        residual_BX = crosscoder.target(x_BX) - active.decode(crosscoder, read_BX)
        forward_pass = ForwardPass(
            crosscoder=crosscoder, x_BX=x_BX, read_BX=read_BX, active=active, residual_BX=residual_BX
        )
        terms = {"reconstruction": self.reconstruction(forward_pass, step), **self.penalties(forward_pass, step)}
        for name, term in self.terms.items():
            terms[name if name not in terms else f"{name}_term"] = term(forward_pass, step)
        if active.f_BF is not None:
            return LossOutput.from_dense(terms, active.f_BF, residual_BX)
        return LossOutput.from_sparse(terms, active.latents, residual_BX)

    def reconstruction(self, forward_pass: ForwardPass, step: StepContext) -> Tensor:
        """The reconstruction term."""
        return self.error(forward_pass.crosscoder, forward_pass.residual_BX, step)

    def error(self, crosscoder: Crosscoder, residual_BX: Tensor, step: StepContext) -> Tensor:
        """The error of a residual in the form that `options.reconstruction` names, averaged over tokens."""
        if self.options.reconstruction == "sum_sq":
            return step.mean(sum_of_squares(residual_BX))
        sites = crosscoder.split(residual_BX)
        return step.mean(torch.stack([part.norm(dim=1).sum() for part in sites.values()]).mean())

    def _masked(self, crosscoder: Crosscoder, x_BX: Tensor, step: StepContext) -> Tensor:
        share = self.options.site_masking
        if not share or not self.training:
            return x_BX
        # The mask depends only on step and process, so a resumed run draws the same one.
        generator = torch.Generator().manual_seed(step.step * 4099 + step.processes.replica)
        sites = crosscoder.layout.sites
        keep_BS = torch.rand(len(x_BX), len(sites), generator=generator) >= share
        widths = torch.tensor([site.width for site in sites])
        return x_BX * keep_BS.repeat_interleave(widths, dim=1).to(x_BX.device)
