"""Layers: where along the layers does each latent live, how far does it reach, and does its direction turn?

Decoder norms say where a latent is *written*; where it is *read* from is `functional_coherence`.
"""

from __future__ import annotations

from typing import Any

import torch
from attrs import field, frozen
from attrs.validators import and_, ge, gt, lt
from torch import Tensor

from crosscoders import Figure, Note, Part, Report, Study, Table
from crosscoders.reports.figures import heatmap, histogram

from .intervals import discoveries
from .norm_classes import entropy_share
from .profiles import Profiles, ordered_sites, shuffled, spread_of

TERMS = {
    "centre": "Where along the sites a latent's decoder norm lies on average.",
    "spread": "How far it reaches from there, in steps between sites.",
    "drift": "How much its direction turns from a site to the next: 0 is not at all.",
}


@frozen(kw_only=True)
class LayersConfig:
    """Which sites, in which order, and against how many shuffles."""

    sites: tuple[str, ...] = ()
    """The sites in their order; empty takes all written ones, in the crosscoder's."""
    min_firings: int = field(default=16, validator=ge(0))
    """Latents that are active on fewer tokens do not count."""
    shuffles: int = field(default=500, validator=ge(20))
    """Times that the sites of each latent are shuffled for the null."""
    false_discoveries: float = field(default=0.05, validator=and_(gt(0.0), lt(1.0)))
    """Share of the latents called local that may be so by chance (Benjamini and Hochberg 1995)."""
    top: int = field(default=20, validator=ge(0))
    """Number of latents listed that reach furthest."""


class Layers:
    """Analysis `layers`."""

    def __init__(self, options: LayersConfig) -> None:
        self.options = options

    @torch.no_grad()
    def run(self, study: Study) -> Report:
        """Centre, spread and drift of every latent, against shuffled sites."""
        options = self.options
        names = ordered_sites(study.crosscoder, options.sites, 3)
        profiles = Profiles.of(study.crosscoder, names)
        position_S = torch.arange(len(names)).double()
        centre_F, spread_F, drift_F = profiles.centre(position_S), profiles.spread(position_S), profiles.drift()
        firings_F = study.census().firings_F
        counts_F = (firings_F >= options.min_firings) & spread_F.isfinite()
        p_F, null_F = self._null(profiles.share_FS, position_S, spread_F, study.seed)
        local_F = torch.zeros_like(counts_F)
        local_F[counts_F] = discoveries(p_F[counts_F], options.false_discoveries)
        by_distance = _by_distance(profiles, counts_F)
        effective_F = (entropy_share(profiles.share_FS.float()) * torch.tensor(float(len(names))).log()).exp().double()
        live = counts_F.nonzero().squeeze(1).tolist()
        columns: dict[str, list[Any]] = {
            "centre": centre_F.tolist(),
            "spread": spread_F.tolist(),
            "spread_shuffled": null_F.tolist(),
            "p": p_F.tolist(),
            "local": local_F.tolist(),
            "drift": [None] * len(spread_F) if drift_F is None else drift_F.tolist(),
            "effective_sites": effective_F.tolist(),
            "firings": firings_F.tolist(),
        }
        num_local = int(local_F.sum())
        summary = (
            f"Of {len(live)} latents that fire, {num_local} surely lie on neighbouring sites; the median reaches over "
            f"{_median(effective_F[counts_F]):.2f} of {len(names)} sites, with a spread of "
            f"{_median(spread_F[counts_F]):.2f} against {_median(null_F[counts_F]):.2f} with sites shuffled."
        )
        if drift_F is not None:
            near = by_distance.get(1, float("nan"))
            summary += f" Rows at neighbouring sites have a mean cosine of {near:.2f}."
        return Report(
            terms=TERMS,
            title="Layers",
            summary=summary,
            parts=self._parts(names, profiles, counts_F, columns, by_distance),
            data={
                "sites": list(names),
                "share": profiles.share_FS.tolist(),
                **columns,
                "cosine_by_distance": {str(distance): value for distance, value in by_distance.items()},
            },
            frame=Table(
                title="Latents",
                columns=("latent", *columns),
                rows=[(j, *row) for j, row in enumerate(zip(*columns.values(), strict=True))],
            ),
        )

    def _null(self, share_FS: Tensor, position_S: Tensor, spread_F: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """p-values of a spread as small as found with the sites shuffled, and the mean spread then."""
        generator = torch.Generator().manual_seed(seed)
        below_F, total_F = torch.zeros_like(spread_F), torch.zeros_like(spread_F)
        for _ in range(self.options.shuffles):
            other_F = spread_of(shuffled(share_FS, generator), position_S)
            below_F += other_F <= spread_F + 1e-12
            total_F += other_F
        return (1 + below_F) / (1 + self.options.shuffles), total_F / self.options.shuffles

    def _parts(
        self,
        names: tuple[str, ...],
        profiles: Profiles,
        counts_F: Tensor,
        columns: dict[str, list[Any]],
        by_distance: dict[int, float],
    ) -> list[Part]:
        live = counts_F.nonzero().squeeze(1)
        spread = {kind: [columns[kind][j] for j in live.tolist()] for kind in ("spread", "spread_shuffled")}
        drawing = histogram(
            {"found": spread["spread"], "sites shuffled": spread["spread_shuffled"]},
            xlabel="spread over the sites",
            ylabel="latents",
            log=False,
        )
        peak_F = profiles.share_FS.argmax(dim=1)
        mean = [profiles.share_FS[counts_F & (peak_F == s)].mean(dim=0).tolist() for s in range(len(names))]
        profile = heatmap(
            mean, rows=[f"peak at {name}" for name in names], columns=names, label="mean share of decoder norm"
        )
        order = sorted(live.tolist(), key=lambda j: -columns["effective_sites"][j])[: self.options.top]
        parts: list[Part] = [
            Figure(title="Mean profile by the site of the peak", svg=profile.svg()),
            Figure(title="How far latents reach", svg=drawing.svg()),
            Table(
                title="Latents that reach furthest",
                columns=("latent", "centre", "effective sites", "spread", "drift", "firings"),
                rows=[
                    (j, *(columns[c][j] for c in ("centre", "effective_sites", "spread", "drift", "firings")))
                    for j in order
                ],
                note="Centre and spread in steps between sites, from 0. Drift: 1 − mean cosine of neighbouring rows.",
            ),
        ]
        if by_distance:
            parts.append(
                Table(
                    title="Cosine of rows by distance",
                    columns=("sites apart", "mean cosine"),
                    rows=list(by_distance.items()),
                    note="Over latents that count and sites where the row is at least a tenth of the largest.",
                )
            )
        parts.append(
            Note(text="Norms say where a latent is written. Few sites often drive it all: see functional coherence.")
        )
        return parts


def _by_distance(profiles: Profiles, counts_F: Tensor) -> dict[int, float]:
    """Mean cosine of rows that many sites apart."""
    if profiles.cosine_FSS is None:
        return {}
    cosine = profiles.cosine_FSS[counts_F]
    return {
        distance: float(cosine.diagonal(offset=distance, dim1=1, dim2=2).nanmean())
        for distance in range(1, len(profiles.names))
    }


def _median(values: Tensor) -> float:
    return float(values.median()) if len(values) else float("nan")
