"""Rules of architectures."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from ...crosscoder.build import build_crosscoder
from ...crosscoder.gates import TopKGate
from ...crosscoder.info import CheckpointInfo
from ...crosscoder.initialise import InitialisationConfig, initialise
from ...crosscoder.module import Crosscoder
from ...crosscoder.sites import Site
from ...errors import SiteError
from ...plugins.choices import ArchitectureChoice
from ...plugins.registry import Registry
from ..place import device
from .base import NamedSuite


class ArchitectureSuite(NamedSuite):
    """Rules of an architecture. `sites` must suit it; give them different widths if the architecture allows that."""

    choice = ArchitectureChoice
    sites: ClassVar[tuple[Site, ...]] = (Site("m/a", 6), Site("m/b", 4), Site("n/a", 6))

    @pytest.fixture
    def crosscoder(self, registry: Registry) -> Crosscoder:
        """A crosscoder of this architecture with random weights, whose gate keeps 3 latents per token."""
        choice = self.chosen(registry)
        made: Crosscoder = build_crosscoder(choice, self.sites, registry=registry)
        different = InitialisationConfig(same_across_sites=False)
        initialise(made, different, decoder_norm=0.7, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        made.normaliser.set_mean_norms(torch.linspace(1.0, 3.0, len(self.sites)))
        made.gate = TopKGate(3)
        made.info = CheckpointInfo.from_architecture(choice, registry=registry)
        return made.to(device())

    def _input(self, num_tokens: int = 9) -> Tensor:
        width = sum(site.width for site in self.sites)
        return torch.randn(num_tokens, width, generator=torch.Generator().manual_seed(2)).to(device())

    def test_wiring_has_the_sites_it_was_given(self, crosscoder: Crosscoder) -> None:
        assert crosscoder.sites == self.sites
        assert crosscoder.num_latents == crosscoder.wiring.num_latents > 0

    def test_reconstruction_has_the_width_of_the_written_sites(self, crosscoder: Crosscoder) -> None:
        x_BX = self._input()
        assert crosscoder(x_BX).shape == (len(x_BX), crosscoder.written.width)

    def test_an_empty_batch_is_fine(self, crosscoder: Crosscoder) -> None:
        assert crosscoder(self._input(0)).shape == (0, crosscoder.written.width)

    def test_decoding_dense_and_sparse_latents_agrees(self, crosscoder: Crosscoder) -> None:
        x_BX = self._input()
        latents = crosscoder.encode(x_BX)
        torch.testing.assert_close(crosscoder.decode(latents, x_BX), crosscoder.decode(latents.dense(), x_BX))

    def test_sparse_values_and_gradients_equal_dense_ones(self, crosscoder: Crosscoder) -> None:
        crosscoder = crosscoder.double()
        x_BX = crosscoder.normaliser(self._input()).double()
        latents = crosscoder.encode(self._input().double())
        mask_BF = latents.dense() > 0
        gradients = []
        for sparse in (True, False):
            crosscoder.zero_grad()
            if sparse:
                x_hat = crosscoder.decode_normalised(latents, x_BX, value_N=crosscoder.values(x_BX, latents))
            else:
                pre_BF = torch.cat([_dense_pre(crosscoder, x_BX, g) for g in range(len(crosscoder.wiring.groups))], 1)
                x_hat = crosscoder.decode_normalised(pre_BF * mask_BF, x_BX)
            torch.autograd.backward((crosscoder.target(x_BX) - x_hat).square().sum())
            gradients.append({n: p.grad.clone() for n, p in crosscoder.named_parameters() if p.grad is not None})
        assert gradients[0].keys() == gradients[1].keys()
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(gradient, gradients[1][name], rtol=2e-6, atol=2e-6, msg=name)

    def test_latents_see_only_the_sites_they_read(self, crosscoder: Crosscoder) -> None:
        x_BX = self._input()
        before_BF = crosscoder.pre_activations(x_BX)
        for group in crosscoder.wiring.groups:
            changed = x_BX.clone()
            for site in self.sites:
                if site.name not in group.reads:
                    changed[:, crosscoder.layout.slices[site.name]] += 1.0
            latents = crosscoder.wiring.latent_slices[group.name]
            assert torch.equal(crosscoder.pre_activations(changed)[:, latents], before_BF[:, latents])

    def test_latents_write_only_the_sites_they_write(self, crosscoder: Crosscoder) -> None:
        norms_FS = crosscoder.decoder_norms()
        for group in crosscoder.wiring.groups:
            for i, name in enumerate(crosscoder.written.names):
                zero = norms_FS[crosscoder.wiring.latent_slices[group.name], i] == 0
                assert bool(zero.all()) != (name in group.writes)

    def test_folded_weights_take_and_give_raw_units(self, crosscoder: Crosscoder) -> None:
        x_BX, folded = self._input(), crosscoder.folded()
        for number, group in enumerate(crosscoder.wiring.groups):
            latents = crosscoder.wiring.latent_slices[group.name]
            raw = x_BX[:, crosscoder.layout.columns(group.reads)] @ folded[f"W_enc.{number}"].T
            expected = crosscoder.pre_activations(crosscoder.normalised(x_BX))[:, latents]
            torch.testing.assert_close(raw + folded["b_enc_F"][latents], expected, rtol=1e-4, atol=1e-5)

    def test_saving_and_loading_is_bit_exact(self, crosscoder: Crosscoder, registry: Registry, tmp_path: Path) -> None:
        x_BX = self._input()
        crosscoder.save_pretrained(tmp_path / "saved")
        again = Crosscoder.from_pretrained(tmp_path / "saved", registry=registry, device=device())
        assert torch.equal(again.encode(x_BX).dense(), crosscoder.encode(x_BX).dense())
        assert torch.equal(again(x_BX), crosscoder(x_BX))
        assert type(again) is type(crosscoder)

    def test_wrong_width_is_refused(self, crosscoder: Crosscoder) -> None:
        with pytest.raises(SiteError, match="width"):
            crosscoder.encode(self._input()[:, 1:])


def _dense_pre(crosscoder: Crosscoder, x_BX: Tensor, number: int) -> Tensor:
    group = crosscoder.wiring.groups[number]
    latents = crosscoder.wiring.latent_slices[group.name]
    x_read = x_BX[:, crosscoder.layout.columns(group.reads)]
    return torch.nn.functional.linear(x_read, crosscoder.encoder_weight(number), crosscoder.b_enc_F[latents])
