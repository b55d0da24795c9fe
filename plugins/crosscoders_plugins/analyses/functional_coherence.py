"""Functional coherence: how many sites does each latent really read? (after fmxcoders, arXiv 2605.09438)

Hide one site's input and measure how much each latent changes where it fires:

    c_i^s = |Σ_tokens (f_i − f_i without s)| / Σ_tokens f_i        over tokens where f_i is on

The change is summed over tokens before its absolute value is taken: an encoder also subtracts what other latents leave
at every site, which averages out and does not contribute to turning the latent on.

The effective number of sites of a latent is exp(H(p)) with p_s = c_i^s / Σ_s c_i^s: 1 if a single site drives it, S if
all drive it equally. Decoder norms can be spread over sites that do not contribute to turning the latent on.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from attrs import field, frozen
from attrs.validators import ge
from torch import Tensor

from crosscoders import AnalysisError, Crosscoder, Figure, Report, Study, Table
from crosscoders.authoring import accumulator, precise
from crosscoders.reports.figures import histogram

from .norm_classes import norm_share, width_free_norms

TERMS = {
    "effective number of sites": "Over how many sites something is spread: 1 if it is all at one, as many as there are "
    "sites if it is equal at all of them.",
}


@frozen(kw_only=True)
class FunctionalCoherenceConfig:
    """Which latents are measured and shown."""

    min_firings: int = field(default=32, validator=ge(1))
    """Latents with fewer firings than this are not measured."""
    top: int = field(default=25, validator=ge(0))
    """Number of latents listed on the page, those that read the most sites; the JSON lists all."""


class FunctionalCoherence:
    """Analysis `functional_coherence`."""

    def __init__(self, options: FunctionalCoherenceConfig) -> None:
        self.options = options

    @torch.no_grad()
    def run(self, study: Study) -> Report:
        """Report how much each latent changes when each site is hidden, and its effective number of sites."""
        crosscoder = study.crosscoder
        sites = crosscoder.wiring.read.names
        if len(sites) < 2:
            raise AnalysisError("functional coherence is defined for crosscoders that read more than one site")
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
        columns = zip(sites_F.tolist(), by_norm_F.tolist(), firings_F.tolist(), change_FS.tolist(), strict=True)
        names = ("effective_sites", "effective_sites_by_norm", "firings")
        frame = Table(
            title="Latents",
            columns=("latent", *names, *(f"change {site}" for site in sites)),
            rows=[(j, read, written, firings, *changes) for j, (read, written, firings, changes) in enumerate(columns)],
        )
        return Report(
            title="Functional coherence",
            frame=frame,
            terms=TERMS,
            summary=f"The median latent is driven by {median:.2f} of {len(sites)} sites and, by decoder norms, written "
            f"to {median_norm:.2f} ({len(known)} latents with at least {self.options.min_firings} firings).",
            parts=[
                Table(
                    title="Latents that read the most sites",
                    columns=("latent", "sites read", "sites written", "main site", "firings"),
                    rows=rows,
                    note="Effective numbers exp(H), of the changes when a site is hidden and of the decoder norms.",
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
        """The changes c (F, S) over batches of raw activations, and the number of firings (F,)."""
        sites = crosscoder.wiring.read.names
        F, kept = crosscoder.num_latents, accumulator(crosscoder.device)
        change_FS = torch.zeros(F, len(sites), **kept)
        total_F = torch.zeros(F, **kept)
        firings_F = torch.zeros(F, dtype=torch.int64, device=crosscoder.device)
        for raw_BX in batches:
            latents = crosscoder.encode(raw_BX)
            x_BX = crosscoder.normalised(raw_BX)
            latent_N = latents.latent_N.to(total_F.device)
            total_F.index_add_(0, latent_N, precise(latents.value_N))
            firings_F += torch.bincount(latents.latent_N, minlength=F)
            for s, site in enumerate(sites):
                hidden_BX = x_BX.clone()
                hidden_BX[:, crosscoder.layout.slices[site]] = 0
                # Use the pre-activation, not the gated value: a gate would turn a small change into a complete one.
                left_N = crosscoder.pre_activations(hidden_BX).relu()[latents.token_N, latents.latent_N]
                change_FS[:, s].index_add_(0, latent_N, precise(latents.value_N - left_N))
        return (change_FS.abs() / total_F[:, None]).cpu(), firings_F.cpu()


def effective_number(share_FS: Tensor) -> Tensor:
    """exp of the entropy of each row of shares, (F,): 1 for one site, S for equal shares, NaN if undefined."""
    return (-(share_FS * share_FS.clamp_min(1e-30).log()).sum(dim=1)).exp()
