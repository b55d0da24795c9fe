"""Rules of gates."""

from __future__ import annotations

from pathlib import Path

import torch

from ...crosscoder.build import build_crosscoder
from ...crosscoder.gates import Gate, check_gate, describe_gate
from ...crosscoder.module import Crosscoder
from ...crosscoder.sites import Site
from ...plugins.choices import GateChoice
from ...plugins.registry import Registry
from ..place import device
from .base import NamedSuite


class GateSuite(NamedSuite):
    """Rules of a gate. Give options for 12 latents, where it has some for each."""

    choice = GateChoice

    def gate(self, registry: Registry) -> Gate:
        """The gate, its buffers as training might leave them; override to set more than thresholds of 0.5."""
        gate: Gate = self.chosen(registry).build(registry=registry)
        for buffer in gate.buffers():
            if buffer.is_floating_point():
                buffer.fill_(0.5)
        return gate

    def _f_BF(self) -> torch.Tensor:
        return torch.randn(40, 12, generator=torch.Generator().manual_seed(0)).relu().to(device())

    def test_it_is_called_as_its_record_is(self, registry: Registry) -> None:
        assert self.gate(registry).name == self.name

    def test_it_keeps_only_what_is_on(self, registry: Registry) -> None:
        f_BF, gate = self._f_BF(), self.gate(registry).to(device())
        check_gate(gate, 12)
        keep_BF = gate.keep(f_BF, torch.ones(12, device=device()))
        assert keep_BF.dtype == torch.bool and keep_BF.shape == f_BF.shape
        assert bool(keep_BF.any()) and not bool((keep_BF & (f_BF <= 0)).any())

    def test_tokens_do_not_see_each_other(self, registry: Registry) -> None:
        f_BF, gate = self._f_BF(), self.gate(registry).to(device())
        alone = torch.cat([gate.keep(row_F[None], torch.ones(12, device=device())) for row_F in f_BF])
        assert torch.equal(alone, gate.keep(f_BF, torch.ones(12, device=device())))

    def test_it_is_described_by_options_and_buffers(self, registry: Registry) -> None:
        name = describe_gate(self.gate(registry), registry=registry)["name"]
        assert name.rpartition(":")[2] == self.name

    def test_it_survives_saving_with_a_crosscoder(self, registry: Registry, tmp_path: Path) -> None:
        """Override `registry` with one that offers the architecture `acausal` too."""
        crosscoder = build_crosscoder("acausal", (Site("m/a", 4), Site("m/b", 3)), registry=registry, num_latents=12)
        with torch.no_grad():
            for parameter in crosscoder.parameters():
                parameter.normal_(generator=torch.Generator().manual_seed(1))
        crosscoder.gate = self.gate(registry)
        crosscoder.to(device())
        crosscoder.save_pretrained(tmp_path / "saved", registry=registry)
        again = Crosscoder.from_pretrained(tmp_path / "saved", registry=registry, device=device())
        x_BX = torch.randn(40, 7, generator=torch.Generator().manual_seed(2)).to(device())
        assert torch.equal(again.encode(x_BX).dense(), crosscoder.encode(x_BX).dense())
        assert type(again.gate) is type(crosscoder.gate)
