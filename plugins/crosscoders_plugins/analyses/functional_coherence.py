"""Functional coherence: from how many sites is each latent really read? (fmxcoders, arXiv 2605.09438)

Hide one site's input and measure how much each latent changes where it fires:

    c_i^s = |Σ_tokens (f_i − f_i without s)| / Σ_tokens f_i        over tokens where f_i is on

The change is summed before its size is taken: an encoder also subtracts what other latents leave at every site, which
averages out and is no part of what turns the latent on.

`sites` of a latent is the effective number exp(H(p)) of p_s = c_i^s / Σ_s c_i^s: 1 when a single site drives it, S when
all do alike. Decoder norms can be spread over sites that have no part in turning the latent on.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from attrs import field, frozen
from attrs.validators import ge
from torch import Tensor

from crosscoders import AnalysisError, Crosscoder, Figure, Report, Study, Table
from crosscoders.reports.figures import histogram

from .norm_classes import norm_share, width_free_norms


@frozen(kw_only=True)
class FunctionalCoherenceConfig:
    """Which latents count."""

    min_firings: int = field(default=32, validator=ge(1))
    """Latents with fewer firings are left out."""
    top: int = field(default=25, validator=ge(0))
    """Most coherent latents listed on the page; JSON holds all."""


class FunctionalCoherence:
    """Analysis `functional_coherence`."""

    def __init__(self, options: FunctionalCoherenceConfig) -> None:
        self.options = options

    @torch.no_grad()
    def run(self, study: Study) -> Report:
        """The change of each latent when each site is hidden, and the effective number of sites."""
        crosscoder = study.crosscoder
        sites = crosscoder.wiring.read.names
        if len(sites) < 2:
            raise AnalysisError("functional coherence is about crosscoders that read more than one site")
        change_FS, firings_F = self.changes(crosscoder, (batch.x_BX for batch in study.batches()))
        by_norm_F = effective_number(norm_share(width_free_norms(crosscoder)))
        sites_F = effective_number(change_FS / change_FS.sum(dim=1, keepdim=True))
        counts = firings_F >= self.options.min_firings
        sites_F = sites_F.masked_fill(~counts, float("nan"))
        order = sites_F.nan_to_num(-1.0).argsort(descending=True)[: self.options.top]
        rows = [
            (j, float(sites_F[j]), float(by_norm_F[j]), sites[int(change_FS[j].argmax())], int(firings_F[j]))
            for j in order.tolist()
            if counts[j]
        ]
        known = sites_F[counts].tolist()
        median = float(torch.tensor(known).median()) if known else float("nan")
        median_norm = float(by_norm_F[counts].median()) if known else float("nan")
        drawing = histogram(
            {"read from": known, "written to": by_norm_F[counts].tolist()},
            xlabel="effective number of sites",
            ylabel="latents",
        )
        return Report(
            title="Functional coherence",
            summary=f"Of {len(sites)} sites the median latent is driven by {median:.2f}, while by decoder norms it "
            f"is written to {median_norm:.2f} ({len(known)} latents with {self.options.min_firings} firings or more).",
            parts=[
                Table(
                    title="Latents read from most sites",
                    columns=("latent", "sites read", "sites written", "main site", "firings"),
                    rows=rows,
                    note="Effective numbers exp(H): of the change when a site is hidden, and of decoder norms.",
                ),
                Figure(title="Effective number of sites", svg=drawing.svg()),
            ],
            data={
                "sites": list(sites),
                "effective_sites": sites_F.tolist(),
                "effective_sites_by_norm": by_norm_F.tolist(),
                "change": change_FS.tolist(),
                "firings": firings_F.tolist(),
                "median": median,
            },
        )

    def changes(self, crosscoder: Crosscoder, batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
        """c (F, S) over batches of raw activations, and firings (F,)."""
        sites = crosscoder.wiring.read.names
        F = crosscoder.num_latents
        change_FS = torch.zeros(F, len(sites), dtype=torch.float64, device=crosscoder.device)
        total_F = torch.zeros(F, dtype=torch.float64, device=crosscoder.device)
        firings_F = torch.zeros(F, dtype=torch.int64, device=crosscoder.device)
        for raw_BX in batches:
            latents = crosscoder.encode(raw_BX)
            x_BX = crosscoder.normalised(raw_BX)
            total_F.index_add_(0, latents.latent_N, latents.value_N.double())
            firings_F += torch.bincount(latents.latent_N, minlength=F)
            for s, site in enumerate(sites):
                hidden_BX = x_BX.clone()
                hidden_BX[:, crosscoder.layout.slices[site]] = 0
                # The pre-activation, not the gated value: a gate would turn small changes into whole ones.
                left_N = crosscoder.pre_activations(hidden_BX).relu()[latents.token_N, latents.latent_N]
                change_FS[:, s].index_add_(0, latents.latent_N, (latents.value_N - left_N).double())
        return (change_FS.abs() / total_F[:, None]).cpu(), firings_F.cpu()


def effective_number(share_FS: Tensor) -> Tensor:
    """exp of the entropy of each row of shares, (F,): 1 for one site, S for equal shares; NaN where undefined."""
    return (-(share_FS * share_FS.clamp_min(1e-30).log()).sum(dim=1)).exp()
