"""Latent scaling: is a latent that looks specific to one site really absent from the others?

The published columns (Minder et al. 2025, §3.1): ν^ε = β_error^m / β_error^ref is high where the concept is at site m
but its reconstruction left it out (complete shrinkage); ν^r = β_reconstruction^m / β_reconstruction^ref is high where
other latents rebuild it there (latent decoupling). Both look along the reference's direction alone, so that a concept
which is at m under another direction looks absent. The verdict therefore rests on `presence`, in each site's own terms.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from attrs import field, frozen
from attrs.validators import and_, ge, gt, lt
from torch import Tensor

from crosscoders import AnalysisError, Figure, Part, Report, Study, Table
from crosscoders.reports.figures import scatter

from .intervals import Estimate, jackknife
from .measured import measured
from .norm_classes import classes_of, norm_share, width_free_norms
from .presence import Presence
from .scaling_sums import ScalingSums
from .verdicts import Verdicts, decide

TERMS = {
    "verdict": "Where the concept of a latent is. Specific: at one site and at no other. Rotated: at others too, under "
    "another direction. Mostly: at others too, but weaker. Shared: at others too. Undecided: the text does not "
    "show it.",
    "β": "How strongly something at a site goes along with a latent: the factor by which the latent's row has to be "
    "multiplied to fit it best.",
    "ν": "β at one site over β at the reference site. Near 0, the latent's concept is missing there; near 1, it is as "
    "present there. ν^ε fits what the reconstruction left over (was the concept there and left out?), ν^r the "
    "reconstruction (is it there under other latents?).",
}


@frozen(kw_only=True)
class LatentScalingConfig:
    """The reference site, the thresholds, and the confidence of the verdicts."""

    reference: str = ""
    """The site whose decoder rows are used as directions, usually of the chat or fine-tuned model; empty takes the last
    written site."""
    error_threshold: float = field(default=0.2, validator=gt(0.0))
    """ν^ε below this is absence from the error: a line in the figures, and the published criterion."""
    reconstruction_threshold: float = field(default=0.5, validator=gt(0.0))
    """ν^r below this is absence from the reconstruction: likewise."""
    min_firings: int = field(default=32, validator=ge(2))
    """With fewer firings in the whole text, half of it in its second half, the verdict is undecided."""
    confidence: float = field(default=0.9, validator=and_(gt(0.0), lt(1.0)))
    """Of the intervals."""
    false_discoveries: float = field(default=0.05, validator=and_(gt(0.0), lt(1.0)))
    """Share of the verdicts of each kind that may be wrong by chance."""
    blocks: int = field(default=64, validator=ge(16))
    """Contiguous blocks of rows; they are joined where neighbours agree."""
    top: int = field(default=25, validator=ge(0))
    """Number of latents listed on the page, those that lean most to the reference site; the JSON lists all."""


@frozen(eq=False)
class Ratios:
    """The published ratios at one site, with intervals."""

    error: Estimate
    """ν^ε"""
    reconstruction: Estimate
    """ν^r"""


class LatentScaling:
    """Analysis `latent_scaling`."""

    def __init__(self, options: LatentScalingConfig) -> None:
        self.options = options

    @torch.no_grad()
    def run(self, study: Study) -> Report:
        """Verdicts on all latents; β and ν at every site of the reference's width, with intervals."""
        names = study.crosscoder.written.names
        reference = self.options.reference or names[-1]
        if reference not in names:
            raise AnalysisError(f"'{reference}' is not a written site; the written sites are {', '.join(names)}")
        if len(names) < 2:
            raise AnalysisError("latent scaling compares sites, but this crosscoder writes only one")
        sums, presence, rows = measured(study, reference=reference, num_blocks=self.options.blocks)
        verdicts = decide(
            presence, rows, min_firings=(self.options.min_firings + 1) // 2,
            false_discoveries=self.options.false_discoveries,
        )  # fmt: skip
        share_F = norm_share(width_free_norms(study.crosscoder))[:, names.index(reference)]
        classes = classes_of(study.crosscoder)
        parts: list[Part] = [self._verdict_table(verdicts, classes, sums, share_F, reference)]
        data = self._data(sums, presence, verdicts, classes, names)
        for name in sums.site_names:
            if name != reference:
                ratios = self.ratios(sums, name)
                parts.append(self._figure(name, reference, sums, ratios, verdicts))
                intervals = {
                    f"nu_{target}_interval": getattr(ratios, target).interval(self.options.confidence).tolist()
                    for target in ("error", "reconstruction")
                }
                data["against"][name] = {
                    "nu_error": ratios.error.value.tolist(),
                    "nu_reconstruction": ratios.reconstruction.value.tolist(),
                    **intervals,
                }
        return Report(
            title="Latent scaling",
            summary=_summary(verdicts, classes, names, reference),
            parts=parts,
            data=data,
            frame=_frame(data),
            terms=TERMS,
        )

    def ratios(self, sums: ScalingSums, site: str) -> Ratios:
        """ν at `site`: β there over β at the reference."""
        m, ref = sums.site_names.index(site), sums.site_names.index(sums.reference)

        def nu(target: str) -> Estimate:
            def statistic(weight_RG: Tensor) -> Tensor:
                beta = sums.betas(weight_RG)[target]
                return beta[..., m] / beta[..., ref]

            return jackknife(statistic, len(sums.squares_GF), sums.squares_GF)

        return Ratios(nu("error"), nu("reconstruction"))

    def _data(
        self, sums: ScalingSums, presence: Presence, verdicts: Verdicts, classes: list[str], names: tuple[str, ...]
    ) -> dict[str, Any]:
        def columns(estimates: Sequence[Estimate | None], *, interval: bool = False) -> dict[str, Any]:
            known = {name: found for name, found in zip(names, estimates, strict=True) if found is not None}
            return {
                name: (found.interval(self.options.confidence) if interval else found.value).tolist()
                for name, found in known.items()
            }

        return {
            "reference": sums.reference,
            "verdict": verdicts.verdict,
            "reason": verdicts.reason,
            "home": [names[s] for s in presence.home_F.tolist()],
            "strength": {name: presence.strength_FS[:, s].tolist() for s, name in enumerate(names)},
            "relative_strength": columns(presence.ratio),
            "relative_strength_interval": columns(presence.ratio, interval=True),
            "borne_out": columns(presence.borne_out),
            "rebuilt": columns(presence.rebuilt),
            "rebuilt_interval": columns(presence.rebuilt, interval=True),
            "cosine": columns(presence.cosine),
            "cosine_interval": columns(presence.cosine, interval=True),
            "present": verdicts.present_FS.tolist(),
            "absent": verdicts.absent_FS.tolist(),
            "false_discoveries": self.options.false_discoveries,
            "sites": list(names),
            "sites_of_the_references_width": list(sums.site_names),
            "beta": {name: beta.tolist() for name, beta in sums.betas().items()},
            "beta_of_a_random_direction": sums.random_F.tolist(),
            "firings": sums.firings_F.tolist(),
            "num_tokens": sums.num_tokens,
            "class": classes,
            "against": {},
        }

    def _verdict_table(
        self, verdicts: Verdicts, classes: list[str], sums: ScalingSums, share_F: Tensor, reference: str
    ) -> Table:
        alive = sums.firings_F >= self.options.min_firings
        order = share_F.nan_to_num(-1.0).masked_fill(~alive, -1.0).argsort(descending=True)[: self.options.top]
        rows = [
            (j, float(share_F[j]), classes[j], int(sums.firings_F[j]), verdicts.verdict[j], verdicts.reason[j])
            for j in order.tolist()
            if alive[j]
        ]
        return Table(
            title=f"Verdicts on the most {reference}-leaning latents",
            columns=("latent", f"norm share at {reference}", "class by norms", "firings", "verdict", "reason"),
            rows=rows,
            note=f"False discoveries at most {self.options.false_discoveries:.0%} of each kind, over all latents that "
            "fire. Of the text, the first half gives directions and the second half the numbers. The JSON lists every "
            "latent.",
        )

    def _figure(self, name: str, reference: str, sums: ScalingSums, ratios: Ratios, verdicts: Verdicts) -> Figure:
        groups: dict[str, tuple[list[float], list[float]]] = {}
        for j in (sums.firings_F >= self.options.min_firings).nonzero().squeeze(1).tolist():
            xs, ys = groups.setdefault(verdicts.verdict[j], ([], []))
            xs.append(min(2.0, max(-1.0, float(ratios.error.value[j]))))
            ys.append(min(2.0, max(-1.0, float(ratios.reconstruction.value[j]))))
        drawing = scatter(
            dict(sorted((groups or {"latents": ([], [])}).items(), key=lambda item: -len(item[1][0]))),
            xlabel="ν^ε (error)", ylabel="ν^r (reconstruction)",
            vertical=self.options.error_threshold, horizontal=self.options.reconstruction_threshold,
        )  # fmt: skip
        return Figure(
            title=f"ν of every latent at {name} against {reference}",
            svg=drawing.svg(),
            note="Clipped to [−1, 2]. ν compares along the reference's direction alone: a latent whose direction turns "
            "has a low ν^ε although the concept is in both.",
        )


def _summary(verdicts: Verdicts, classes: list[str], names: tuple[str, ...], reference: str) -> str:
    counts = Counter(verdicts.verdict)
    order = [*(f"specific to {name}" for name in names), *(f"mostly in {name}" for name in names), "rotated", "shared",
             "undecided"]  # fmt: skip
    lines = ["Verdicts: " + ", ".join(f"{counts[kind]} {kind}" for kind in order) + "."]
    for name in reversed(names):
        own = [v for v, kind in zip(verdicts.verdict, classes, strict=True) if kind == f"only {name}"]
        if own or name == reference:
            yes, unknown = own.count(f"specific to {name}"), own.count("undecided")
            lines.append(
                f"Of the {len(own)} that decoder norms call only {name}, {yes} are specific to it, "
                f"{len(own) - yes - unknown} are not, and {unknown} are undecided."
            )
    return " ".join(lines)


def _frame(data: Mapping[str, Any]) -> Table:
    """One row for each latent: its verdict, then what is measured of it at each site and against each other site."""
    columns: dict[str, Sequence[Any]] = {"latent": range(len(data["verdict"]))}
    columns |= {name: data[name] for name in ("verdict", "reason", "home", "class", "firings")}
    for kind in ("strength", "relative_strength", "borne_out", "rebuilt", "cosine"):
        columns |= {f"{kind} {site}": values for site, values in data[kind].items()}
    for site, found in data["against"].items():
        for kind in ("nu_error", "nu_reconstruction"):
            columns[f"{kind} {site}"] = found[kind]
            columns[f"{kind}_low {site}"], columns[f"{kind}_high {site}"] = zip(*found[f"{kind}_interval"], strict=True)
    return Table(title="Latents", columns=columns, rows=zip(*columns.values(), strict=True))
