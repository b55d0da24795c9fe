"""Rules of losses, on a small planted world."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import lru_cache
from itertools import count, islice
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from ...crosscoder.initialise import initialise
from ...crosscoder.module import Crosscoder
from ...crosscoder.sites import Site
from ...crosscoder.wiring import LatentGroup, Wiring
from ...losses.context import StepContext
from ...plugins.choices import LossChoice
from ...plugins.registry import Registry
from ...training import TrainingConfig, evaluate, fit
from ..place import device
from ..worlds import DiffWorld, DiffWorldConfig
from .base import NamedSuite

SMALL_WORLD = DiffWorldConfig(
    width=16, num_shared=12, num_weak=0, num_shifted=0, num_only_a=3, num_only_b=3, min_rate=0.03, max_rate=0.1
)


def planted_batches(world: DiffWorld, batch_size: int = 256) -> Iterator[Tensor]:
    """Batches of both models' activations, (B, X), without end; they are made once and shared, so change none."""
    return (_batch(world, number * batch_size, batch_size) for number in count())


@lru_cache(maxsize=1024)
def _batch(world: DiffWorld, first: int, size: int) -> Tensor:
    ids = torch.arange(first, first + size)
    return torch.cat([world.activations("a", ids), world.activations("b", ids)], dim=1).to(device())


class LossSuite(NamedSuite):
    """Rules of a loss, on a small planted world."""

    choice = LossChoice
    lr: ClassVar[float] = 5e-3
    min_explained_variance: ClassVar[float] = 0.8
    """The explained variance to reach on the planted world in 300 steps of 256 tokens."""
    l0_tolerance: ClassVar[float] = 0.1
    """The allowed relative difference between L0 in training and L0 with the inference gate."""

    def _world(self) -> DiffWorld:
        return DiffWorld(SMALL_WORLD)

    def wiring(self) -> Wiring:
        """The wiring to train, over `base/x` and `chat/x` of width 16, with 32 latents; override it if the loss needs
        another one."""
        sites = (Site("base/x", 16), Site("chat/x", 16))
        names = ("base/x", "chat/x")
        return Wiring(sites=sites, groups=(LatentGroup("all", 32, reads=names, writes=names),))

    def _made(self, registry: Registry) -> tuple[Crosscoder, Any]:
        crosscoder, loss = Crosscoder(self.wiring()), self.chosen(registry).build(registry=registry)
        loss.attach(crosscoder)
        return crosscoder.to(device()), loss.to(device())

    def _batches(self, batch_size: int = 256) -> Iterator[Tensor]:
        return planted_batches(self._world(), batch_size)

    def _ready(self, registry: Registry) -> tuple[Crosscoder, Any, Tensor, StepContext]:
        crosscoder, loss = self._made(registry)
        generator = torch.Generator().manual_seed(0)
        initialise(crosscoder, decoder_norm=loss.decoder_norm, generator=generator)
        dead_F = torch.arange(32, device=device()) % 4 == 0
        step = StepContext(step=5, total_steps=10, warmed_up=True, num_tokens=256, dead_F=dead_F)
        return crosscoder, loss.train(), next(self._batches()), step

    def test_terms_are_finite_scalars_with_gradient(self, registry: Registry) -> None:
        crosscoder, loss, x_BX, step = self._ready(registry)
        output = loss(crosscoder, x_BX, step)
        assert output.terms
        for name, term in output.terms.items():
            assert term.shape == () and math.isfinite(term.item()), name
        sum(output.terms.values()).backward()
        for parameter_name, parameter in crosscoder.named_parameters():
            assert parameter.grad is not None and bool(torch.isfinite(parameter.grad).all()), parameter_name

    def test_output_says_what_fired(self, registry: Registry) -> None:
        crosscoder, loss, x_BX, step = self._ready(registry)
        output = loss(crosscoder, x_BX, step)
        assert output.fired_F.dtype == torch.bool and output.fired_F.shape == (32,)
        assert output.residual_BX.shape == crosscoder.target(x_BX).shape
        assert not output.residual_BX.requires_grad
        assert int(output.fired_F.sum()) <= int(output.num_active)

    def test_terms_are_means_over_tokens(self, registry: Registry) -> None:
        crosscoder, loss, x_BX, step = self._ready(registry)
        import attrs

        once = loss(crosscoder, x_BX, step).terms
        loss = self._ready(registry)[1]  # a fresh one, since a loss may adapt to what it has seen
        twice = loss(crosscoder, torch.cat([x_BX, x_BX]), attrs.evolve(step, num_tokens=512)).terms
        for name in once:
            torch.testing.assert_close(once[name], twice[name], rtol=1e-4, atol=1e-6)

    def test_two_processes_average_to_one(self, registry: Registry) -> None:
        """Each process scales its sum up, so that the mean over processes is the mean over all tokens."""
        crosscoder, loss, x_BX, step = self._ready(registry)
        import attrs

        once = loss(crosscoder, x_BX, step).terms
        loss = self._ready(registry)[1]
        doubled = loss(crosscoder, x_BX, attrs.evolve(step, num_tokens=512, num_processes=2)).terms
        if self._selects_by_batch(registry):
            pytest.skip("a batch-wide selection needs all processes at once; it is tested with real processes")
        for name in once:
            torch.testing.assert_close(once[name], doubled[name])

    def _selects_by_batch(self, registry: Registry) -> bool:
        crosscoder, loss, x_BX, step = self._ready(registry)
        import attrs

        few = loss(crosscoder, x_BX, attrs.evolve(step, num_tokens=128)).num_active
        return int(few) != int(loss(crosscoder, x_BX, step).num_active)

    def test_it_learns_the_planted_world_and_its_gate_agrees(self, registry: Registry) -> None:
        crosscoder, loss = Crosscoder(self.wiring()).to(device()), self.chosen(registry).build(registry=registry)
        config = TrainingConfig(num_tokens=300 * 256, batch_size=256, lr=self.lr)
        reports = list(fit(crosscoder, loss, self._batches(), config))
        assert reports[-1].loss < reports[0].loss
        metrics = evaluate(crosscoder, islice(self._batches(), 290, 300))
        assert min(metrics.explained_variance.values()) >= self.min_explained_variance, metrics
        trained_l0 = sum(report.l0 for report in reports[-10:]) / 10
        assert metrics.l0 == pytest.approx(trained_l0, rel=self.l0_tolerance)

    def test_gate_survives_saving(self, registry: Registry, tmp_path: Path) -> None:
        from ...crosscoder.gates import describe_gate, gate_from_config

        crosscoder, loss, x_BX, step = self._ready(registry)
        loss(crosscoder, x_BX, step)
        gate = loss.gate().to(device())
        again = gate_from_config(json.loads(json.dumps(describe_gate(gate, registry=registry))), registry=registry)
        again.to(device()).load_state_dict(gate.state_dict())
        f_BF = crosscoder.pre_activations(x_BX).relu()
        assert torch.equal(again.keep(f_BF, crosscoder.score_norms()), gate.keep(f_BF, crosscoder.score_norms()))

    def test_state_survives_saving(self, registry: Registry) -> None:
        crosscoder, loss, x_BX, step = self._ready(registry)
        loss(crosscoder, x_BX, step)
        again = self._made(registry)[1].train()
        again.load_state_dict(loss.state_dict())
        first, second = loss(crosscoder, x_BX, step), again(crosscoder, x_BX, step)
        for name in first.terms:
            assert torch.equal(first.terms[name], second.terms[name])
