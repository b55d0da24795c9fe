"""Decoder-norm statistics of latents, and the classes that follow from them."""

from __future__ import annotations

import torch
from torch import Tensor

from crosscoders import Crosscoder

SHARED = (0.4, 0.6)
SPECIFIC = 0.1


def norm_share(norms_FS: Tensor) -> Tensor:
    """p_s = ‖d^s‖ / Σ_s‖d^s‖, (F, S) (Lindsey et al. 2024's relative decoder norm); NaN where all norms are 0."""
    return norms_FS / norms_FS.sum(dim=1, keepdim=True)


def width_free_norms(crosscoder: Crosscoder) -> Tensor:
    """‖d_i^s‖ / √D_s, (F, S), on the CPU: what decoder norms of sites of different width are compared by.

    Normalised activations have a mean norm of √D at every site, so a concept that is equally strong at a site of
    width 48 and at one of width 24 has rows whose norms differ by √2. Where widths are equal, shares and Δnorm stay
    as they are.
    """
    widths = torch.tensor([float(site.width) for site in crosscoder.written.sites])
    return crosscoder.decoder_norms().detach().cpu() / widths.sqrt()


def delta_norm(norms_FS: Tensor) -> Tensor:
    """½(1 + (‖d¹‖ − ‖d⁰‖) / max(‖d⁰‖, ‖d¹‖)), (F,): 0 is only the first site, 1 only the second.

    Minder et al. 2025, Eq. 3. It agrees with the share of the second site only at 0, ½ and 1.
    """
    first_F, second_F = norms_FS.unbind(dim=1)
    return 0.5 * (1 + (second_F - first_F) / torch.maximum(first_F, second_F))


def entropy_share(share_FS: Tensor) -> Tensor:
    """H(p) / log S, (F,): 0 for one site, 1 for evenly spread."""
    entropy_F = -(share_FS * share_FS.clamp_min(1e-30).log()).sum(dim=1)
    return entropy_F / torch.tensor(float(share_FS.shape[1])).log()


def classes_of(crosscoder: Crosscoder) -> list[str]:
    """Assign one class to each latent.

    With two sites, Δnorm decides: `only A` (≤ 0.1), `shared` (0.4–0.6), `only B` (≥ 0.9), or `other`. With more sites,
    shares decide: `only A` if A has at least 0.9, `shared` if the entropy is at least 0.9 of its maximum, or `other`.
    """
    names = crosscoder.written.names
    norms_FS = width_free_norms(crosscoder)
    if len(names) == 1:
        return ["only site"] * crosscoder.num_latents
    if len(names) == 2:
        return [
            f"only {names[0]}"
            if value <= SPECIFIC
            else f"only {names[1]}"
            if value >= 1 - SPECIFIC
            else "shared"
            if SHARED[0] <= value <= SHARED[1]
            else "other"
            for value in delta_norm(norms_FS).tolist()
        ]
    share_FS = norm_share(norms_FS)
    largest, site = share_FS.max(dim=1)
    spread_F = entropy_share(share_FS)
    return [
        f"only {names[s]}" if top >= 1 - SPECIFIC else "shared" if spread >= 0.9 else "other"
        for top, s, spread in zip(largest.tolist(), site.tolist(), spread_F.tolist(), strict=True)
    ]
