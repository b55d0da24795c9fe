"""One optimizer step on a batch of activations, and the plain loop over them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..crosscoder.initialise import InitialisationConfig, initialise
from ..crosscoder.inputs import as_activations
from ..crosscoder.module import Crosscoder
from ..devices import precise
from ..errors import TrainingError
from ..kernels import gradients_in_place
from ..losses.context import StepContext
from ..losses.loss import Loss, LossOutput
from ..processes import ALONE, Processes
from .config import TrainingConfig
from .launch import autocast
from .optimizer import gradient_norm, make_optimizer, scale_gradient
from .progress import StepReport

if TYPE_CHECKING:
    from accelerate import Accelerator


class _TrainStep(nn.Module):
    """Crosscoder and loss as one module, so that distributed wrappers see one forward pass."""

    def __init__(self, crosscoder: Crosscoder, loss: Loss, processes: Processes) -> None:
        super().__init__()
        self.crosscoder, self.loss, self.processes = crosscoder, loss, processes

    def forward(self, x_BX: Tensor, step: StepContext) -> tuple[LossOutput, Tensor]:
        """The output of the loss, and the sums from which metrics are computed; see `_sums`."""
        x_BX = self.crosscoder.normaliser(x_BX)
        output = self.loss(self.crosscoder, x_BX, step)
        return output, self._sums(x_BX, output)

    @torch.no_grad()
    def _sums(self, x_BX: Tensor, output: LossOutput) -> Tensor:
        """Sums over tokens: the terms, the active count, squared residual and target per written site, target per
        column."""
        target_BX = self.crosscoder.target(x_BX)
        squares = [
            part.square().sum()
            for columns_BX in (output.residual_BX, target_BX)
            for part in self.crosscoder.split(columns_BX).values()
        ]
        terms = [term.detach() for term in output.terms.values()]
        num_active = self.processes.over_shards(output.num_active.to(terms[0]))
        numbers = precise(torch.stack([*terms, num_active, *squares]))
        return torch.cat([numbers, precise(target_BX.sum(dim=0))])


class Trainer:
    """Holds the state that changes from step to step: weights, optimizer, loss buffers, dead counters, step number."""

    def __init__(
        self,
        crosscoder: Crosscoder,
        loss: Loss,
        config: TrainingConfig,
        *,
        accelerator: Accelerator | None = None,
        processes: Processes = ALONE,
    ) -> None:
        self.crosscoder, self.loss, self.config = crosscoder, loss, config
        self.accelerator, self.processes = accelerator, processes
        self.step_number = 0
        device = accelerator.device if accelerator else crosscoder.device
        loss.attach(crosscoder)
        module = _TrainStep(crosscoder, loss, processes).to(device)
        self.parameters = list(module.parameters())
        self.optimizer = make_optimizer(config, self.parameters)
        self.module = _replicated(module, accelerator, processes)
        self.tokens_since_fired_F = torch.zeros(crosscoder.num_latents, dtype=torch.int64, device=device)

    @property
    def dead_F(self) -> Tensor:
        """Boolean mask of the latents that were not selected within the dead window."""
        return self.tokens_since_fired_F >= self.config.dead_after

    def step(self, micro_batches: Sequence[Tensor]) -> StepReport:
        """Train on one global batch of raw activations, given as `accumulation` micro-batches of this process's rows.

        Raises `TrainingError` if the loss or the gradient is not finite; the weights are then unchanged.
        """
        self.module.train()
        config = self.config
        context = StepContext(
            step=self.step_number,
            total_steps=config.num_steps,
            warmed_up=self.step_number >= config.warmup_steps,
            num_tokens=config.batch_size // config.accumulation,
            num_processes=self.processes.num_replicas,
            processes=self.processes,
            dead_F=self.dead_F,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = config.lr_at(self.step_number)
        sums: list[Tensor] = []
        fired_F = torch.zeros_like(self.tokens_since_fired_F, dtype=torch.bool)
        names: list[str] = []
        for index, x_BX in enumerate(micro_batches):
            output, micro_batch_sums = self._forward_backward(x_BX, context, last=index == len(micro_batches) - 1)
            names = list(output.terms)
            fired_F |= output.fired_F
            sums.append(micro_batch_sums)
        fired_F = self.processes.over_replicas(fired_F.int()) > 0
        since_F = (self.tokens_since_fired_F + config.batch_size).masked_fill(fired_F, 0)
        dead_share = self.processes.over_shards((since_F >= config.dead_after).float().mean())
        norm = gradient_norm(self.parameters, self.crosscoder.replicated, self.processes)
        values = self.processes.over_replicas(torch.stack(sums).sum(dim=0))
        # One copy of everything: each by itself would wait for the device once more.
        values = torch.cat([values, torch.stack([norm, dead_share]).to(values)]).cpu()
        grad_norm, dead_share = values[-2:].tolist()
        means = (values[: len(names)] / config.accumulation / self.processes.num_replicas).tolist()
        terms = dict(zip(names, means, strict=True))
        self._check_finite(terms)
        if not math.isfinite(grad_norm):
            self.optimizer.zero_grad()
            raise TrainingError(f"the gradient is not finite at step {self.step_number}; the loss was {terms}")
        if config.grad_clip:
            # The optimizer scales the gradient to a norm of at most `grad_clip`.
            scale_gradient(self.optimizer, self.parameters, (config.grad_clip / norm).clamp_max(1.0))
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step_number += 1
        self.tokens_since_fired_F.copy_(since_F)
        return self._report(values[len(names) : -2], terms, grad_norm, dead_share / self.processes.num_shards, fired_F)

    def _forward_backward(self, x_BX: Tensor, context: StepContext, *, last: bool) -> tuple[LossOutput, Tensor]:
        # Gradients are exchanged once, with the last micro-batch.
        waiting: AbstractContextManager[None] = nullcontext()
        exchanging = isinstance(self.module, DistributedDataParallel) and last
        if isinstance(self.module, DistributedDataParallel) and not last:
            waiting = self.module.no_sync()
        with waiting, nullcontext() if exchanging else gradients_in_place():
            output: LossOutput
            x_BX = self.processes.gather_rows(x_BX.to(self.tokens_since_fired_F.device))
            with autocast(self.config, self.tokens_since_fired_F.device):
                output, sums = self.module(x_BX, context)
            loss = torch.stack(list(output.terms.values())).sum() / self.config.accumulation
            loss.backward()  # type: ignore[no-untyped-call]
        return output, sums

    def _check_finite(self, terms: dict[str, float]) -> None:
        bad = [name for name, value in terms.items() if not math.isfinite(value)]
        if bad:
            self.optimizer.zero_grad()
            raise TrainingError(f"loss term {', '.join(bad)} is not finite at step {self.step_number}")

    def _report(
        self, values: Tensor, terms: dict[str, float], grad_norm: float, dead_share: float, fired_F: Tensor
    ) -> StepReport:
        config, written = self.config, self.crosscoder.written
        count = len(written.sites)
        num_active, error_S, square_S, sums_X = torch.split(values, [1, count, count, written.width])
        explained = {}
        for name, error, square in zip(written.names, error_S.tolist(), square_S.tolist(), strict=True):
            total = square - float(sums_X[written.slices[name]].square().sum()) / config.batch_size
            explained[name] = 1 - error / total if total > 0 else float("nan")
        return StepReport(
            step=self.step_number,
            loss=sum(terms.values()),
            terms=terms,
            l0=float(num_active) / config.batch_size,
            explained_variance=explained,
            dead_share=dead_share,
            lr=config.lr_at(self.step_number - 1),
            grad_norm=grad_norm,
            fired_F=fired_F,
        )


def _replicated(module: nn.Module, accelerator: Accelerator | None, processes: Processes) -> nn.Module:
    """Wrap `module` so that gradients are averaged over the processes that hold the same latents."""
    if accelerator is None or processes.num_replicas == 1:
        return module
    devices = [accelerator.device] if accelerator.device.type == "cuda" else None
    return DistributedDataParallel(
        module,
        device_ids=devices,
        process_group=processes.replica_group,
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
    )


def fit(
    crosscoder: Crosscoder,
    loss: Loss,
    batches: Iterable[Tensor],
    config: TrainingConfig,
    *,
    calibration_BX: Tensor | None = None,
    initialisation: InitialisationConfig | None = None,
) -> Iterator[StepReport]:
    """Train on any iterable of raw activations, yielding a report of each step; exhaust the iterator to train.

    Each batch has `batch_size` tokens, (B, X) or in more dimensions; `SiteError` and `TrainingError` where one has not.

    Weights start as `initialisation` and the seed say. Norms and means are taken from `calibration_BX`, or else from
    the first batch. The inference gate is set after the last step. For models, tokens, checkpoints and several
    processes, see `Runner`.
    """
    layout = crosscoder.layout
    batches = (as_activations(x, layout, layout.names).reshape(-1, layout.width) for x in batches)
    first = next(batches, None) if calibration_BX is None else None
    sample = first if calibration_BX is None else calibration_BX
    if sample is None or not len(sample):
        raise TrainingError("there are no activations to train on: the first batch is empty, or there is none")
    sample_BX = as_activations(sample, layout, layout.names).reshape(-1, layout.width)
    norms = torch.stack([part.norm(dim=1).mean() for part in crosscoder.layout.unpack(sample_BX.float()).values()])
    crosscoder.normaliser.set_mean_norms(norms)
    trainer = Trainer(crosscoder, loss, config)
    normalised_BX = crosscoder.normaliser(sample_BX)
    gate = initialise(
        crosscoder,
        initialisation,
        decoder_norm=loss.decoder_norm,
        generator=torch.Generator().manual_seed(config.seed),
        mean_X=normalised_BX.mean(dim=0),
        sample_BX=normalised_BX,
        firing_threshold=loss.firing_threshold,
    )
    if gate is not None:
        loss.start_from(gate)
    done = 0
    for x_BX in islice(_chain(first, batches), config.num_steps):
        if len(x_BX) != config.batch_size:
            raise TrainingError(f"batch {done} has {len(x_BX)} tokens, but batch_size is {config.batch_size}")
        yield trainer.step(x_BX.chunk(config.accumulation))
        done += 1
    if done < config.num_steps:
        raise TrainingError(f"the batches ended after {done} of {config.num_steps} steps")
    crosscoder.gate = loss.gate().to(crosscoder.device)
    crosscoder.eval()


def _chain(first: Tensor | None, rest: Iterator[Tensor]) -> Iterator[Tensor]:
    if first is not None:
        yield first
    yield from rest
