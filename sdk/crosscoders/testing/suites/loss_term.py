"""Rules of loss terms, added to L1-like and to selecting losses."""

from __future__ import annotations

import math
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

from ...crosscoder.gates import Gate, ReluGate
from ...crosscoder.initialise import initialise
from ...crosscoder.latents import Latents
from ...crosscoder.module import Crosscoder
from ...crosscoder.sites import Site
from ...crosscoder.wiring import LatentGroup, Wiring
from ...losses.context import StepContext
from ...losses.loss import Activation, ComposedLoss, LossConfig
from ...plugins.choices import LossTermChoice
from ...plugins.registry import Registry
from ..place import device
from .base import NamedSuite


class _Plain(ComposedLoss):
    """A loss without sparsity: dense activations, or every positive activation as a sparse latent."""

    decoder_norm = 0.5

    def __init__(self, *, dense: bool) -> None:
        super().__init__(LossConfig())
        self.dense = dense

    def activate(self, crosscoder: Crosscoder, read_BX: Tensor, step: StepContext) -> Activation:
        f_BF = crosscoder.pre_activations(read_BX).relu()
        if self.dense:
            return Activation(f_BF)
        latents = Latents.from_mask(f_BF.detach() > 0, f_BF.detach())
        return Activation(sparse=(latents, crosscoder.values(read_BX, latents)))

    def gate(self) -> Gate:
        return ReluGate()


class LossTermSuite(NamedSuite):
    """Rules of a loss term. Override `wiring` if the term needs special latent groups, but keep its sites."""

    choice = LossTermChoice

    def wiring(self) -> Wiring:
        """The wiring to test on, over `base/x` and `chat/x` of width 16, with 32 latents."""
        sites = (Site("base/x", 16), Site("chat/x", 16))
        names = ("base/x", "chat/x")
        return Wiring(sites=sites, groups=(LatentGroup("all", 32, reads=names, writes=names),))

    def _terms(self, registry: Registry, *, dense: bool, repeats: int = 1, **changes: Any) -> dict[str, Tensor]:
        crosscoder, loss = Crosscoder(self.wiring()), _Plain(dense=dense)
        loss.terms["term"] = self.chosen(registry).build(registry=registry)
        loss.attach(crosscoder)
        generator = torch.Generator().manual_seed(0)
        initialise(crosscoder, decoder_norm=0.5, generator=generator)
        x_BX = torch.randn(256, 32, generator=generator).repeat(repeats, 1).to(device())
        dead_F = torch.arange(32, device=device()) % 4 == 0
        step = StepContext(step=5, total_steps=10, warmed_up=True, num_tokens=len(x_BX), dead_F=dead_F)
        self.crosscoder = crosscoder.to(device())
        terms: dict[str, Tensor] = loss.to(device()).train()(crosscoder, x_BX, attrs.evolve(step, **changes)).terms
        return terms

    @pytest.mark.parametrize("dense", [True, False])
    def test_it_is_a_finite_scalar_with_gradient(self, registry: Registry, dense: bool) -> None:
        term = self._terms(registry, dense=dense)["term"]
        assert term.shape == () and math.isfinite(term.item())
        torch.autograd.backward(term)
        gradients = [p.grad for p in self.crosscoder.parameters() if p.grad is not None]
        assert gradients and all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
        assert any(bool(gradient.any()) for gradient in gradients)

    def test_dense_and_sparse_latents_give_the_same(self, registry: Registry) -> None:
        terms = [self._terms(registry, dense=dense)["term"] for dense in (True, False)]
        torch.testing.assert_close(terms[0], terms[1])

    def test_it_is_a_mean_over_tokens(self, registry: Registry) -> None:
        once, twice = (self._terms(registry, dense=True, repeats=repeats)["term"] for repeats in (1, 2))
        torch.testing.assert_close(once, twice, rtol=1e-4, atol=1e-6)

    def test_two_processes_average_to_one(self, registry: Registry) -> None:
        once = self._terms(registry, dense=True)["term"]
        shared = self._terms(registry, dense=True, num_tokens=512, num_processes=2)["term"]
        torch.testing.assert_close(once, shared)
