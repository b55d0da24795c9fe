"""The sums behind latent scaling, in one streaming pass: O(tokens · k · D), any number of sites and latents.

For latent j with reference row d_j, β_j^m(y) = Σ_i f_ij (d_j·y_i^m) / (‖d_j‖² Σ_i f_ij²) (Minder et al. 2025, §3.1).
Only the targets y = x (activation) and y = r (reconstruction) need sums over tokens. The error target, to which the
latent's own contribution at site m is added back, follows from them:
β_error^m = β_activation^m − β_reconstruction^m + (d_j^m·d_j) / ‖d_j‖².
"""

from __future__ import annotations

from statistics import NormalDist

import torch
from attrs import frozen
from torch import Tensor

from crosscoders import Crosscoder, Latents
from crosscoders.authoring import accumulator, precise, row_dots

from .presence import add_rows, sums_by_latent


@frozen(eq=False)
class ScalingSums:
    """Sums per block of neighbouring rows (G), latent (F) and site (M); index 0 of K: activation, 1:
    reconstruction."""

    site_names: tuple[str, ...]
    reference: str
    products_GKFM: Tensor
    """Σ f (d·y) / ‖d‖²"""
    squares_GF: Tensor
    """The sums Σ f² over tokens."""
    firings_F: Tensor
    bias_FM: Tensor
    """The products (d·b^m) / ‖d‖² with the decoder bias b^m."""
    own_FM: Tensor
    """The products (d^m·d) / ‖d‖² with the latent's own row d^m at each site."""
    sums_GF: Tensor
    """Σ f, by which the bias enters."""
    random_F: Tensor
    """What β_activation of a random direction of the norm of d stays below at the reference with probability 0.95:
    1.645 ‖v‖ / (‖d‖ √D) with v = Σ f x / Σ f², since for a random direction u of norm 1, v·u is nearly normal with
    standard deviation ‖v‖ / √D."""
    num_tokens: int

    def betas(self, weight_RG: Tensor | None = None) -> dict[str, Tensor]:
        """β of every target, (F, M), or (R, F, M) for R reweightings of the blocks; NaN for latents that never fire."""
        weights = self.squares_GF.new_ones(1, len(self.squares_GF)) if weight_RG is None else weight_RG
        squares = torch.einsum("rg,gf->rf", weights, self.squares_GF)[..., None]
        sums = torch.einsum("rg,gf->rf", weights, self.sums_GF)[..., None]
        products = torch.einsum("rg,gkfm->krfm", weights, self.products_GKFM)
        activation, reconstruction = products[0] / squares, products[1] / squares
        found = {
            "activation": activation,
            "activation_without_bias": activation - sums * self.bias_FM / squares,
            "reconstruction": reconstruction,
            "error": activation - reconstruction + self.own_FM,
        }
        return {name: beta[0] if weight_RG is None else beta for name, beta in found.items()}


class ScalingAccumulator:
    """Collects the sums, batch by batch. Sites whose width differs from the reference's are left out."""

    def __init__(self, crosscoder: Crosscoder, *, reference: str, num_blocks: int) -> None:
        width = crosscoder.written.subset([reference]).width
        self.crosscoder, self.reference = crosscoder, reference
        self.names = tuple(site.name for site in crosscoder.written.sites if site.width == width)
        self.rows_FD = crosscoder.decoder_rows(reference).detach()
        F, device = crosscoder.num_latents, self.rows_FD.device
        self.products = torch.zeros(2, len(self.names), num_blocks * F, **accumulator(device))
        self.squares = torch.zeros(num_blocks * F, **accumulator(device))
        self.sums = torch.zeros_like(self.squares)
        self.vector_FD = torch.zeros_like(self.rows_FD)
        self.firings_F = torch.zeros(F, dtype=torch.int64, device=device)
        self.num_tokens = 0

    def add(self, latents: Latents, block_B: Tensor, x_BX: Tensor, r_BX: Tensor) -> None:
        """Some tokens: latents, the block of each token, and the written sites as they are and as reconstructed."""
        F = self.crosscoder.num_latents
        targets = [self.crosscoder.written.unpack(t) for t in (x_BX, r_BX)]
        self.num_tokens += latents.num_tokens
        self.firings_F += torch.bincount(latents.latent_N, minlength=F)
        f_N = precise(latents.value_N)
        slot_N = block_B[latents.token_N] * F + latents.latent_N
        add_rows(self.squares, slot_N, f_N.square())
        add_rows(self.sums, slot_N, f_N)
        for m, name in enumerate(self.names):
            for k, target in enumerate(targets):
                dots_N = precise(row_dots(target[name], self.rows_FD, latents))
                add_rows(self.products[k, m], slot_N, f_N * dots_N)
        self.vector_FD += sums_by_latent(latents, targets[0][self.reference])

    def result(self) -> ScalingSums:
        """The sums so far."""
        crosscoder, F = self.crosscoder, self.crosscoder.num_latents
        rows_FD = precise(self.rows_FD)
        norm_F = rows_FD.square().sum(dim=1)
        bias = crosscoder.written.unpack(precise(crosscoder.b_dec_X.detach()))
        own = [(precise(crosscoder.decoder_rows(name).detach()) * rows_FD).sum(dim=1) for name in self.names]
        products_GKFM = self.products.view(2, len(self.names), -1, F).permute(2, 0, 3, 1)
        squares_GF = self.squares.view(-1, F)
        # β of a random direction of the same norm has mean 0 and this standard deviation.
        spread_F = precise(self.vector_FD).norm(dim=1) / (
            squares_GF.sum(dim=0) * norm_F.sqrt() * rows_FD.shape[1] ** 0.5
        )
        return ScalingSums(
            site_names=self.names,
            reference=self.reference,
            products_GKFM=(products_GKFM / norm_F[:, None]).cpu(),
            squares_GF=squares_GF.cpu(),
            firings_F=self.firings_F.cpu(),
            bias_FM=torch.stack([rows_FD @ bias[name] for name in self.names], dim=1).div(norm_F[:, None]).cpu(),
            own_FM=torch.stack(own, dim=1).div(norm_F[:, None]).cpu(),
            sums_GF=self.sums.view(-1, F).cpu(),
            random_F=(NormalDist().inv_cdf(0.95) * spread_F).cpu(),
            num_tokens=self.num_tokens,
        )
