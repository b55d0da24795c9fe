"""Snapshots: when in training do latents form?

The sites are snapshots of one model in training, in time. A latent's norm curve over them says when it comes up; its
rows say when its direction settles (Ge et al. 2025). Dates are held against the same curves with snapshots shuffled.

The indirect effect of a latent at a snapshot is what that snapshot's loss gains when it is taken out and everything
else is kept. Along that path integrated gradients sum up to just this difference, so it needs no gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from attrs import field, frozen
from attrs.validators import and_, ge, gt, le, lt
from torch import Tensor

from crosscoders import AnalysisError, Figure, Note, Part, Report, Study, Table
from crosscoders.reports.figures import curves

from .intervals import discoveries
from .profiles import Profiles, ordered_sites, shuffled

DATES = ("onset", "settled")
KINDS = ("emerging", "from the start", "fading", "undated")


TERMS = {
    "onset": "The snapshot from which on a latent is there.",
    "settled": "The snapshot from which on its direction is what it is at the end.",
    "indirect effect": "How much worse a snapshot predicts without the latent.",
}


@frozen(kw_only=True)
class SnapshotsConfig:
    """Which sites are snapshots of which step, and what counts as there."""

    sites: tuple[str, ...] = ()
    """The snapshots in time; empty takes all written sites, in the crosscoder's order."""
    steps: tuple[float, ...] = ()
    """The training step of each; empty counts them from 0."""
    onset: float = field(default=0.5, validator=and_(gt(0.0), le(1.0)))
    """A latent is there from where its norm stays above this share of its largest."""
    settled: float = field(default=0.8, validator=and_(gt(0.0), le(1.0)))
    """Its direction has settled from where the cosine with the last one stays above this."""
    min_firings: int = field(default=16, validator=ge(0))
    """Latents that are active on fewer tokens do not count."""
    shuffles: int = field(default=1000, validator=ge(100))
    """Times that the snapshots of each latent are shuffled for the null."""
    false_discoveries: float = field(default=0.05, validator=and_(gt(0.0), lt(1.0)))
    """Share of the latents with a date that may have it by chance (Benjamini and Hochberg 1995)."""
    top: int = field(default=12, validator=ge(0))
    """Number of emerging latents whose curves are drawn."""
    effects: tuple[int, ...] = ()
    """Latents whose indirect effect on the loss is measured at every snapshot, one pass for each of both."""


class Snapshots:
    """Analysis `snapshots`."""

    def __init__(self, options: SnapshotsConfig) -> None:
        self.options = options

    @torch.no_grad()
    def run(self, study: Study) -> Report:
        """Onset, centre and settling of every latent, and which of them surely come up or fade."""
        options = self.options
        names = ordered_sites(study.crosscoder, options.sites, 4)
        steps = list(options.steps) or [float(i) for i in range(len(names))]
        if len(steps) != len(names) or sorted(set(steps)) != steps:
            raise AnalysisError(
                f"steps should be {len(names)} rising numbers, one for each of {', '.join(names)}, not {steps}"
            )
        profiles = Profiles.of(study.crosscoder, names)
        firings_F = study.census().firings_F
        counts_F = (firings_F >= options.min_firings) & (profiles.norms_FS.amax(dim=1) > 0)
        onset_F = _sustained(profiles.norms_FS / profiles.norms_FS.amax(dim=1, keepdim=True) >= options.onset)
        settled_F = None
        if profiles.cosine_FSS is not None:
            settled_F = _sustained(profiles.cosine_FSS[:, :, -1] >= options.settled)
        p_rise_F, p_fall_F, trend_F = self._null(profiles.norms_FS, study.seed)
        rising_F, falling_F = self._found(p_rise_F, counts_F), self._found(p_fall_F, counts_F)
        kinds = [
            "emerging" if rising_F[j] and onset_F[j] > 0
            else "fading" if falling_F[j]
            else "from the start" if onset_F[j] == 0
            else "undated"
            for j in range(len(onset_F))
        ]  # fmt: skip
        time_S = torch.tensor(steps).double().log1p()
        columns: dict[str, list[Any]] = {
            "kind": kinds,
            "onset": [_step(steps, i) for i in onset_F.tolist()],
            "settled": [None] * len(kinds) if settled_F is None else [_step(steps, i) for i in settled_F.tolist()],
            "centre": profiles.centre(time_S).expm1().tolist(),
            "trend": trend_F.tolist(),
            "p_rising": p_rise_F.tolist(),
            "p_falling": p_fall_F.tolist(),
            "firings": firings_F.tolist(),
        }
        effects = {j: [study.ablate([j], sites=[name]).loss_increase for name in names] for j in options.effects}
        live = counts_F.nonzero().squeeze(1).tolist()
        counted = {kind: sum(kinds[j] == kind for j in live) for kind in KINDS}
        summary = f"Of {len(live)} latents that fire: " + ", ".join(f"{n} {kind}" for kind, n in counted.items()) + "."
        for what, column in (("are there", "onset"), ("have their direction", "settled")):
            dates = sorted(columns[column][j] for j in live if columns[column][j] is not None)
            if dates:
                summary += f" Half of all {what} from step {dates[len(dates) // 2]:g} on."
        return Report(
            terms=TERMS,
            title="Snapshots",
            summary=summary,
            parts=[*self._parts(names, steps, profiles, live, columns), *_effect_parts(names, steps, effects)],
            data={
                "sites": list(names),
                "steps": steps,
                "norms": profiles.norms_FS.tolist(),
                **columns,
                "indirect_effect": {str(j): values for j, values in effects.items()},
                "relative_indirect_effect": {str(j): relative(values) for j, values in effects.items()},
            },
            frame=Table(
                title="Latents",
                columns=("latent", *columns),
                rows=[(j, *row) for j, row in enumerate(zip(*columns.values(), strict=True))],
            ),
        )

    def _null(self, norms_FS: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """p-values of a norm that rises, and falls, as much as found with snapshots shuffled; the trend itself.

        The trend is the correlation of ranks of norm and time (Spearman's).
        """
        generator = torch.Generator().manual_seed(seed)
        rank_FS = norms_FS.argsort(dim=1).argsort(dim=1).double()
        trend_F = _trend(rank_FS)
        above_F, below_F = torch.zeros_like(trend_F), torch.zeros_like(trend_F)
        for _ in range(self.options.shuffles):
            other_F = _trend(shuffled(rank_FS, generator))
            above_F += other_F >= trend_F - 1e-12
            below_F += other_F <= trend_F + 1e-12
        total = 1 + self.options.shuffles
        return (1 + above_F) / total, (1 + below_F) / total, trend_F

    def _found(self, p_F: Tensor, counts_F: Tensor) -> Tensor:
        found_F = torch.zeros_like(counts_F)
        found_F[counts_F] = discoveries(p_F[counts_F], self.options.false_discoveries)
        return found_F

    def _parts(
        self,
        names: tuple[str, ...],
        steps: list[float],
        profiles: Profiles,
        live: list[int],
        columns: dict[str, list[Any]],
    ) -> list[Part]:
        emerging = [j for j in live if columns["kind"][j] == "emerging"]
        order = sorted(emerging, key=lambda j: (-columns["firings"][j], j))[: self.options.top]
        share_FS = profiles.norms_FS[live] / profiles.norms_FS[live].amax(dim=1, keepdim=True)
        lines = {f"latent {j}": (steps, share_FS[live.index(j)].tolist()) for j in order[:6]}
        bands = {}
        if live:
            low, middle, high = share_FS.quantile(torch.tensor([0.25, 0.5, 0.75]).double(), dim=0).tolist()
            lines = {"median of all, and their middle half": (steps, middle), **lines}
            bands = {"median of all, and their middle half": (low, high)}
        drawing = curves(lines, xlabel="training step", ylabel="norm, share of the largest", bands=bands)
        parts: list[Part] = [Figure(title="Norms over training", svg=drawing.svg())]
        shown = ("onset", "settled", "centre", "trend", "p_rising", "firings")
        parts.append(
            Table(
                title="Emerging latents that fire most",
                columns=("latent", "onset", "direction settled", "centre of mass", "trend", "p", "firings"),
                rows=[(j, *(columns[c][j] for c in shown)) for j in order],
                note=f"Onset: from where the norm stays above {self.options.onset:.0%} of its largest; settled: from "
                f"where the cosine with the last row stays above {self.options.settled:g}; centre of mass over log "
                "steps. Trend: rank correlation of norm and time, its p against shuffled snapshots.",
            )
        )
        by_snapshot = [
            (name, step, *(sum(columns[c][j] == step for j in of) for of in (live, emerging) for c in DATES))
            for name, step in zip(names, steps, strict=True)
        ]
        parts.append(
            Table(
                title="Dates by snapshot",
                columns=(
                    "snapshot",
                    "step",
                    "latents that come up",
                    "whose direction settles",
                    "surely: come up",
                    "surely: settle",
                ),
                rows=by_snapshot,
                note="Of single latents only those are sure which emerge, beyond what shuffled snapshots would give.",
            )
        )
        parts.append(Note(text="Norms and directions do not say what a latent means: look at examples."))
        return parts


def relative(effects: Sequence[float]) -> list[float]:
    """|IE_m| / Σ_m |IE_m| (RelIE); equal shares where all are 0."""
    total = sum(map(abs, effects))
    return [abs(value) / total if total else 1 / len(effects) for value in effects]


def _effect_parts(names: Sequence[str], steps: Sequence[float], effects: Mapping[int, Sequence[float]]) -> list[Part]:
    if not effects:
        return []
    rows = [
        (j, name, step, value, share)
        for j, values in effects.items()
        for name, step, value, share in zip(names, steps, values, relative(values), strict=True)
    ]
    lines = {f"latent {j}": (list(steps), relative(values)) for j, values in effects.items()}
    drawing = curves(lines, xlabel="training step", ylabel="relative indirect effect")
    return [
        Figure(title="Relative indirect effects", svg=drawing.svg()),
        Table(
            title="Indirect effects",
            columns=("latent", "snapshot", "step", "loss without it, nats", "relative"),
            rows=rows,
            note="By how much the snapshot's loss rises without the latent, all else kept; relative: its size as a "
            "share of those at all snapshots.",
        ),
    ]


def _sustained(there_FS: Tensor) -> Tensor:
    """The first snapshot from which on it is there to the end, (F,); −1 where it is not there at the end."""
    kept_FS = there_FS.flip(1).long().cumprod(dim=1).flip(1)
    first_F: Tensor = there_FS.shape[1] - kept_FS.sum(dim=1)
    return first_F.masked_fill(kept_FS[:, -1] == 0, -1)


def _trend(rank_FS: Tensor) -> Tensor:
    """Correlation of ranks with time, (F,); 0 where all are equal."""
    time_S = torch.arange(rank_FS.shape[1]).double()
    time_S -= time_S.mean()
    centred_FS = rank_FS - rank_FS.mean(dim=1, keepdim=True)
    size_F = centred_FS.norm(dim=1) * time_S.norm()
    trend_F: Tensor = (centred_FS @ time_S) / size_F.clamp_min(1e-300)
    return trend_F


def _step(steps: list[float], index: int) -> float | None:
    return steps[index] if index >= 0 else None
