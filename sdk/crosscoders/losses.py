"""The interface of losses: what they get at each step, what they return, and the pieces that they are composed of.

A loss may be anything that is a `Loss`. Most are a `ComposedLoss`: they say which latents are on and what that costs;
reconstruction, masking of sites and extra terms chosen in the config come with the base.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property

import torch
from attrs import field, frozen
from attrs.validators import and_, ge, in_, lt
from torch import Tensor, nn

from .attributes import as_tuple
from .configs import LossTermChoice
from .crosscoder import Crosscoder
from .gates import Gate
from .kernels import sum_of_squares
from .latents import Latents
from .processes import ALONE, Processes


@frozen(kw_only=True)
class StepContext:
    """What a loss may know about the step it is in."""

    step: int
    """Steps done before this one."""
    total_steps: int
    warmed_up: bool
    """Whether the learning rate's warm-up is over."""
    num_tokens: int
    """Tokens of the global batch, over all processes."""
    num_processes: int = 1
    """How many processes have tokens of their own."""
    processes: Processes = field(default=ALONE, eq=False)
    """Those of the run: only what concerns all tokens or all latents needs them."""
    dead_F: Tensor | None = field(default=None, eq=False)
    """Latents that have not been selected for the run's dead window; None where nobody counts."""

    @property
    def progress(self) -> float:
        """Share of the run that is done, in [0, 1)."""
        return self.step / self.total_steps

    def ramp(self, share: float) -> float:
        """A factor that rises linearly from above 0 to 1 over the first `share` of the run."""
        return min(1.0, (self.progress + 1 / self.total_steps) / share) if share else 1.0

    def mean(self, total: Tensor) -> Tensor:
        """The mean over the tokens of the global batch, from a sum over this process's tokens.

        Processes average their gradients, so the sum is scaled up by their number first.
        """
        return total * (self.num_processes / self.num_tokens)

    def global_mean(self, total: Tensor) -> Tensor:
        """The same without gradient and equal on every process: the true mean, for terms that are not sums.

        Of a total over latents: where processes share them, those of all.
        """
        return self.processes.total(self.mean(total.detach())) / self.processes.num_replicas

    def over_latents(self, total: Tensor) -> Tensor:
        """A total over this process's latents as one over all of them, with gradient: where processes share latents,
        penalties go through here."""
        return self.processes.sum_with_gradient(total)


@frozen(kw_only=True, eq=False)
class LossOutput:
    """Named terms, which the runner sums, and what it needs for its metrics."""

    terms: dict[str, Tensor]
    """Scalars with gradient, each a mean over the tokens of the global batch."""
    fired_F: Tensor
    """Boolean: latents active on some token of this process."""
    num_active: Tensor
    """Number of active (token, latent) pairs on this process."""
    residual_BX: Tensor
    """Target minus reconstruction, normalised, detached."""

    @classmethod
    def of_dense(cls, terms: dict[str, Tensor], f_BF: Tensor, residual_BX: Tensor) -> LossOutput:
        """From dense activations."""
        active_BF = f_BF.detach() > 0
        return cls(
            terms=terms,
            fired_F=active_BF.any(dim=0),
            num_active=active_BF.count_nonzero(),
            residual_BX=residual_BX.detach(),
        )

    @classmethod
    def of_sparse(cls, terms: dict[str, Tensor], latents: Latents, residual_BX: Tensor) -> LossOutput:
        """From sparse latents."""
        return cls(
            terms=terms,
            fired_F=latents.fired_F,
            num_active=torch.tensor(len(latents.latent_N), device=residual_BX.device),
            residual_BX=residual_BX.detach(),
        )


class Loss(nn.Module, ABC):
    """A sparsity objective. Its parameters are trained; its buffers (thresholds, counters) are saved with a run."""

    decoder_norm: float
    """Norm of each latent's decoder row at each site when training starts."""
    shardable: bool = False
    """Whether it may be trained with latents parted over processes (`training.shards`): what it sums over latents goes
    through `StepContext.over_latents`."""
    firing_threshold: float = 0.0
    """Pre-activation above which a latent is on when training starts, for biases set from data."""

    def attach(self, crosscoder: Crosscoder) -> None:
        """Called once before training: make the parameters and buffers whose size depends on the crosscoder."""

    @abstractmethod
    def forward(self, crosscoder: Crosscoder, x_BX: Tensor, step: StepContext) -> LossOutput:
        """Terms for normalised activations `x_BX`, this process's part of the global batch."""

    @abstractmethod
    def gate(self) -> Gate:
        """The gate for inference as training stands now."""


@frozen(eq=False, slots=False)
class Activation:
    """Which latents are on for a batch, and how much, with gradient; dense or sparse, whichever the loss has."""

    f_BF: Tensor | None = None
    """Dense activations, of losses that need them so."""
    sparse: tuple[Latents, Tensor] | None = None
    """Selected latents and their values with gradient, of losses that select."""
    pre_BF: Tensor | None = None
    """Pre-activations with gradient, of losses whose penalties are about them."""

    @cached_property
    def latents(self) -> Latents:
        """What is on, detached."""
        if self.sparse is not None:
            return self.sparse[0]
        assert self.f_BF is not None
        return Latents.of_mask(self.f_BF.detach() > 0, self.f_BF.detach())

    @cached_property
    def num_active(self) -> int:
        """How many (token, latent) pairs are on."""
        if self.sparse is not None:
            return len(self.sparse[0].latent_N)
        assert self.f_BF is not None
        return int(self.f_BF.count_nonzero())

    @cached_property
    def value_N(self) -> Tensor:
        """The values of `latents`, with gradient."""
        if self.sparse is not None:
            return self.sparse[1]
        assert self.f_BF is not None
        return self.f_BF[self.latents.token_N, self.latents.latent_N]

    def total_F(self) -> Tensor:
        """Σ over tokens of f, with gradient."""
        if self.f_BF is not None:
            return self.f_BF.sum(dim=0)
        return self.value_N.new_zeros(self.latents.num_latents).index_add(0, self.latents.latent_N, self.value_N)

    def decode(self, crosscoder: Crosscoder, read_BX: Tensor) -> Tensor:
        """The reconstruction, normalised."""
        if self.f_BF is not None:
            return crosscoder.decode_normalised(self.f_BF, read_BX)
        return crosscoder.decode_normalised(self.latents, read_BX, value_N=self.value_N)

    def blocks_of(self, crosscoder: Crosscoder, keep_F: Tensor) -> Tensor:
        """What the latents in boolean `keep_F` alone add to the reconstruction, without bias."""
        if self.f_BF is not None:
            return crosscoder.decode_blocks(self.f_BF * keep_F)
        keep_N = keep_F[self.latents.latent_N]
        return crosscoder.decode_blocks(self.latents.select(keep_N), value_N=self.value_N[keep_N])


@frozen(kw_only=True, eq=False)
class ForwardPass:
    """One forward pass of a loss, as its terms see it. All tensors are in normalised space."""

    crosscoder: Crosscoder
    x_BX: Tensor
    """Activations of all sites."""
    read_BX: Tensor
    """The same as the encoder saw them: with masked sites at 0."""
    active: Activation
    """Which latents are on."""
    residual_BX: Tensor
    """Target minus reconstruction, with gradient."""


class LossTerm(nn.Module, ABC):
    """An extra term that a config adds to a loss."""

    def attach(self, crosscoder: Crosscoder) -> None:
        """As `Loss.attach`; refuse here what the term is not defined for."""

    @abstractmethod
    def forward(self, found: ForwardPass, step: StepContext) -> Tensor:
        """A scalar with gradient, weight included, the mean over the tokens of the global batch."""


@frozen(kw_only=True)
class LossConfig:
    """Options that all composed losses share."""

    reconstruction: str = field(default="sum_sq", validator=in_(("sum_sq", "mean_l2")))
    """`sum_sq`: squared errors summed over sites and widths. `mean_l2`: unsquared error norms, mean over sites
    (the public code of Minder et al. 2025); weights of penalties do not carry over from one to the other."""
    site_masking: float = field(default=0.0, validator=and_(ge(0.0), lt(1.0)))
    """Chance for each token and site to be hidden from the encoder in training; targets stay whole (fmxcoders)."""
    terms: tuple[LossTermChoice, ...] = field(default=(), converter=as_tuple)
    """Further terms, each `{name = ..., weight = ...}`."""


class ComposedLoss(Loss):
    """Base of most losses: subclasses say what is on (`activate`) and what it costs (`penalties`)."""

    def __init__(self, options: LossConfig) -> None:
        super().__init__()
        self.options = options
        self.terms = nn.ModuleDict()
        for number, choice in enumerate(options.terms):
            key = choice.name.partition(":")[2] or choice.name
            self.terms[f"{key}_{number}" if key in self.terms else key] = choice.build()

    @abstractmethod
    def activate(self, crosscoder: Crosscoder, read_BX: Tensor, step: StepContext) -> Activation:
        """Which latents are on."""

    def penalties(self, found: ForwardPass, step: StepContext) -> Mapping[str, Tensor]:
        """Named terms besides reconstruction."""
        return {}

    def attach(self, crosscoder: Crosscoder) -> None:
        for term in self.terms.values():
            term.attach(crosscoder)  # type: ignore[operator]

    def forward(self, crosscoder: Crosscoder, x_BX: Tensor, step: StepContext) -> LossOutput:
        read_BX = self._masked(crosscoder, x_BX, step)
        active = self.activate(crosscoder, read_BX, step)
        residual_BX = crosscoder.target(x_BX) - active.decode(crosscoder, read_BX)
        found = ForwardPass(crosscoder=crosscoder, x_BX=x_BX, read_BX=read_BX, active=active, residual_BX=residual_BX)
        terms = {"reconstruction": self.reconstruction(found, step), **self.penalties(found, step)}
        for name, term in self.terms.items():
            terms[name if name not in terms else f"{name}_term"] = term(found, step)
        if active.f_BF is not None:
            return LossOutput.of_dense(terms, active.f_BF, residual_BX)
        return LossOutput.of_sparse(terms, active.latents, residual_BX)

    def reconstruction(self, found: ForwardPass, step: StepContext) -> Tensor:
        """The reconstruction term."""
        return self.error(found.crosscoder, found.residual_BX, step)

    def error(self, crosscoder: Crosscoder, residual_BX: Tensor, step: StepContext) -> Tensor:
        """A residual in the form that `options.reconstruction` names, mean over tokens."""
        if self.options.reconstruction == "sum_sq":
            return step.mean(sum_of_squares(residual_BX))
        sites = crosscoder.split(residual_BX)
        return step.mean(torch.stack([part.norm(dim=1).sum() for part in sites.values()]).mean())

    def _masked(self, crosscoder: Crosscoder, x_BX: Tensor, step: StepContext) -> Tensor:
        share = self.options.site_masking
        if not share or not self.training:
            return x_BX
        # A function of step and process, so that a resumed run masks alike.
        generator = torch.Generator().manual_seed(step.step * 4099 + step.processes.replica)
        sites = crosscoder.layout.sites
        keep_BS = torch.rand(len(x_BX), len(sites), generator=generator) >= share
        widths = torch.tensor([site.width for site in sites])
        return x_BX * keep_BS.repeat_interleave(widths, dim=1).to(x_BX.device)
