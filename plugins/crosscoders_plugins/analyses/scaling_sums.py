"""The sums behind latent scaling, in one streaming pass: O(tokens · k · D), any number of sites and latents.

For latent j with reference row d_j, β_j^m(y) = Σ_i f_ij (d_j·y_i^m) / (‖d_j‖² Σ_i f_ij²) (Minder et al. 2025, §3.1).
Only the targets y = x (activation) and y = r (reconstruction) need sums over tokens. The error target, to which the
latent's own contribution at site m is added back, follows from them:
β_error^m = β_activation^m − β_reconstruction^m + (d_j^m·d_j) / ‖d_j‖².
"""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Tensor

from crosscoders import Crosscoder, Study
from crosscoders.authoring import row_dots


@frozen(eq=False)
class ScalingSums:
    """Float64 sums per block of sequences (G), latent (F) and site (M); K is the target, activation or
    reconstruction."""

    site_names: tuple[str, ...]
    reference: str
    products_GKFM: Tensor
    """The sums Σ f (d·y) / ‖d‖² over tokens."""
    null_GFM: Tensor
    """The sums Σ f (u·x) / ‖u‖² of the activation, with a random direction u of the same norm instead of d."""
    squares_GF: Tensor
    """The sums Σ f² over tokens."""
    firings_F: Tensor
    bias_FM: Tensor
    """The products (d·b^m) / ‖d‖² with the decoder bias b^m."""
    own_FM: Tensor
    """The products (d^m·d) / ‖d‖² with the latent's own row d^m at each site."""
    sums_GF: Tensor
    """The sums Σ f over tokens, with which the bias is weighted."""
    num_tokens: int

    def betas(self, weight_RG: Tensor | None = None) -> dict[str, Tensor]:
        """β of every target, (F, M), or (R, F, M) for R reweightings of the blocks; NaN for latents that never fire."""
        weights = torch.ones(1, len(self.squares_GF), dtype=torch.float64) if weight_RG is None else weight_RG
        squares = torch.einsum("rg,gf->rf", weights, self.squares_GF)[..., None]
        sums = torch.einsum("rg,gf->rf", weights, self.sums_GF)[..., None]
        products = torch.einsum("rg,gkfm->krfm", weights, self.products_GKFM)
        null = torch.einsum("rg,gfm->rfm", weights, self.null_GFM) / squares
        activation, reconstruction = products[0] / squares, products[1] / squares
        found = {
            "activation": activation,
            "activation_without_bias": activation - sums * self.bias_FM / squares,
            "reconstruction": reconstruction,
            "error": activation - reconstruction + self.own_FM,
            "random_direction": null,
        }
        return {name: beta[0] if weight_RG is None else beta for name, beta in found.items()}


def scaling_sums(study: Study, *, reference: str, num_blocks: int) -> ScalingSums:
    """Compute the sums in one pass over the study's tokens, at all sites of the same width as the reference."""
    crosscoder = study.crosscoder
    width = crosscoder.written.subset([reference]).width
    names = tuple(site.name for site in crosscoder.written.sites if site.width == width)
    rows_FD = crosscoder.decoder_rows(reference).double()
    norm_F = rows_FD.square().sum(dim=1)
    generator = torch.Generator().manual_seed(study.seed)
    random_FD = torch.randn(rows_FD.shape, generator=generator, dtype=torch.float64).to(rows_FD.device)
    random_FD *= norm_F.sqrt()[:, None] / random_FD.norm(dim=1, keepdim=True)
    F, M = crosscoder.num_latents, len(names)
    products = torch.zeros(num_blocks, 2, F, M, dtype=torch.float64, device=rows_FD.device)
    null = torch.zeros(num_blocks, F, M, dtype=torch.float64, device=rows_FD.device)
    squares = torch.zeros(num_blocks, F, dtype=torch.float64, device=rows_FD.device)
    sums = torch.zeros_like(squares)
    firings = torch.zeros(F, dtype=torch.int64, device=rows_FD.device)
    num_tokens = 0
    for batch in study.batches():
        x_BX = crosscoder.normalised(batch.x_BX)
        latents = crosscoder.encode(batch.x_BX)
        r_BX = crosscoder.decode_normalised(latents, x_BX)
        targets = {"x": crosscoder.written.unpack(crosscoder.target(x_BX)), "r": crosscoder.written.unpack(r_BX)}
        num_tokens += latents.num_tokens
        firings += torch.bincount(latents.latent_N, minlength=F)
        f_N = latents.value_N.double()
        # Assign whole sequences to a block, because the tokens of a sequence are not independent.
        block_N = (batch.first_sequence + batch.place_B2[latents.token_N, 0]) % num_blocks
        slot_N = block_N * F + latents.latent_N
        squares.view(-1).index_add_(0, slot_N, f_N.square())
        sums.view(-1).index_add_(0, slot_N, f_N)
        for m, name in enumerate(names):
            for k, kind in enumerate("xr"):
                dots_N = f_N * row_dots(targets[kind][name].double(), rows_FD, latents)
                _add(products[:, k, :, m], slot_N, dots_N)
            _add(null[:, :, m], slot_N, f_N * row_dots(targets["x"][name].double(), random_FD, latents))
    products /= norm_F[:, None]
    null /= norm_F[:, None]
    bias = crosscoder.written.unpack(crosscoder.b_dec_X.double())
    return ScalingSums(
        site_names=names,
        reference=reference,
        products_GKFM=products.cpu(),
        null_GFM=null.cpu(),
        squares_GF=squares.cpu(),
        firings_F=firings.cpu(),
        bias_FM=torch.stack([rows_FD @ bias[name] for name in names], dim=1).div(norm_F[:, None]).cpu(),
        own_FM=_own(crosscoder, rows_FD, names).div(norm_F[:, None]).cpu(),
        sums_GF=sums.cpu(),
        num_tokens=num_tokens,
    )


def _own(crosscoder: Crosscoder, rows_FD: Tensor, names: tuple[str, ...]) -> Tensor:
    return torch.stack([(crosscoder.decoder_rows(name).double() * rows_FD).sum(dim=1) for name in names], dim=1)


def _add(sums_GF: Tensor, slot_N: Tensor, value_N: Tensor) -> None:
    flat = torch.zeros(sums_GF.numel(), dtype=torch.float64, device=sums_GF.device).index_add_(0, slot_N, value_N)
    sums_GF += flat.view_as(sums_GF)
