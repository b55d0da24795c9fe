"""Latent scaling: is a latent that looks specific to one site really absent from the others? (Minder et al. 2025, §3.1)

ν^ε = β_error^m / β_error^ref is high if the concept is present at site m but missing from its reconstruction (complete
shrinkage); ν^r = β_reconstruction^m / β_reconstruction^ref is high if other latents reconstruct it there (latent
decoupling). If both are low, the latent is truly specific to the reference site.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from attrs import field, frozen
from attrs.validators import and_, ge, gt, lt
from torch import Tensor

from crosscoders import AnalysisError, Figure, Part, Report, Study, Table
from crosscoders.reports.figures import scatter

from .norm_classes import classes_of, norm_share
from .scaling_sums import ScalingSums, scaling_sums


@frozen(kw_only=True)
class LatentScalingConfig:
    """The reference site, the thresholds, and the confidence of the verdicts."""

    reference: str = ""
    """The site whose decoder rows are used as directions, usually of the chat or fine-tuned model; empty takes the last
    written site."""
    error_threshold: float = field(default=0.2, validator=gt(0.0))
    """A latent counts as absent from the error at a site if ν^ε is below this."""
    reconstruction_threshold: float = field(default=0.5, validator=gt(0.0))
    """A latent counts as absent from the reconstruction at a site if ν^r is below this."""
    min_firings: int = field(default=32, validator=ge(1))
    """With fewer firings the verdict is `undecided`, because the ratios of rare latents are too noisy."""
    confidence: float = field(default=0.9, validator=and_(gt(0.0), lt(1.0)))
    """Confidence level of the bootstrap intervals, which resample blocks of sequences."""
    resamples: int = field(default=200, validator=ge(10))
    """Number of bootstrap resamples."""
    blocks: int = field(default=24, validator=ge(4))
    """Number of blocks that the sequences are divided into for the bootstrap."""
    top: int = field(default=25, validator=ge(0))
    """Number of latents listed on the page, those that lean most to the reference site; the JSON lists all."""


@frozen(eq=False)
class Verdicts:
    """The verdict on each latent at one site against the reference site."""

    nu_error_F: Tensor
    nu_reconstruction_F: Tensor
    error_interval_F2: Tensor
    reconstruction_interval_F2: Tensor
    verdict: list[str]
    """For each latent, whether it is `specific` to the reference, `shared` with this site, or `undecided`."""
    reason: list[str]


class LatentScaling:
    """Analysis `latent_scaling`."""

    def __init__(self, options: LatentScalingConfig) -> None:
        self.options = options

    @torch.no_grad()
    def run(self, study: Study) -> Report:
        """β and ν of all latents at every site of the reference's width, with intervals and verdicts."""
        names = study.crosscoder.written.names
        reference = self.options.reference or names[-1]
        if reference not in names:
            raise AnalysisError(f"'{reference}' is not a written site; the written sites are {', '.join(names)}")
        sums = scaling_sums(study, reference=reference, num_blocks=self.options.blocks)
        others = [name for name in sums.site_names if name != reference]
        if not others:
            raise AnalysisError(
                f"latent scaling needs a second written site of the width of {reference}; sites of other widths have "
                "no directions in common with it"
            )
        norms_FS = study.crosscoder.decoder_norms().detach().cpu()
        share_F = norm_share(norms_FS)[:, names.index(reference)]
        classes = classes_of(study.crosscoder)
        betas = sums.betas()
        parts: list[Part] = []
        data: dict[str, Any] = {
            "reference": reference,
            "sites": list(sums.site_names),
            "beta": {name: beta.tolist() for name, beta in betas.items()},
            "firings": sums.firings_F.tolist(),
            "num_tokens": sums.num_tokens,
            "class": classes,
            "against": {},
        }
        lines = []
        for name in others:
            verdicts = self.verdicts(sums, name, seed=study.seed)
            parts += self._parts(name, reference, sums, verdicts, share_F, classes)
            data["against"][name] = {
                "nu_error": verdicts.nu_error_F.tolist(),
                "nu_reconstruction": verdicts.nu_reconstruction_F.tolist(),
                "nu_error_interval": verdicts.error_interval_F2.tolist(),
                "nu_reconstruction_interval": verdicts.reconstruction_interval_F2.tolist(),
                "verdict": verdicts.verdict,
                "reason": verdicts.reason,
            }
            counts = Counter(verdicts.verdict)
            exclusive = Counter(
                v for v, kind in zip(verdicts.verdict, classes, strict=True) if kind == f"only {reference}"
            )
            lines.append(
                f"Against {name}: {counts['specific']} specific to {reference}, {counts['shared']} shared, "
                f"{counts['undecided']} undecided. Of the {sum(exclusive.values())} that decoder norms call only "
                f"{reference}, {exclusive['specific']} really are."
            )
        return Report(title="Latent scaling", summary=" ".join(lines), parts=parts, data=data)

    def verdicts(self, sums: ScalingSums, site: str, *, seed: int) -> Verdicts:
        """ν at `site` over ν at the reference, with bootstrap intervals, and what follows from them."""
        options = self.options
        m, ref = sums.site_names.index(site), sums.site_names.index(sums.reference)
        betas = sums.betas()
        blocks = len(sums.squares_GF)
        generator = torch.Generator().manual_seed(seed)
        draws = torch.randint(blocks, (options.resamples, blocks), generator=generator)
        weights = torch.zeros(options.resamples, blocks, dtype=torch.float64)
        weights.scatter_add_(1, draws, torch.ones_like(draws, dtype=torch.float64))
        nu, interval = {}, {}
        low, high = (1 - options.confidence) / 2, (1 + options.confidence) / 2
        resampled: dict[str, list[Tensor]] = {"error": [], "reconstruction": []}
        for piece in torch.split(weights, 20):  # memory is bounded by resampling 20 times at once
            found = sums.betas(piece)
            for target, parts in resampled.items():
                parts.append(found[target][..., m] / found[target][..., ref])
        for target, parts in resampled.items():
            nu[target] = betas[target][:, m] / betas[target][:, ref]
            interval[target] = torch.cat(parts).nanquantile(torch.tensor([low, high], dtype=torch.float64), dim=0).T
        # A latent whose direction explains no more than a random one would at its own site is not measurable.
        null = betas["random_direction"][:, ref].abs()
        null_level = float(null[null.isfinite()].quantile(0.95)) if bool(null.isfinite().any()) else 0.0
        verdict, reason = [], []
        for j in range(len(sums.firings_F)):
            v, why = self._decide(
                int(sums.firings_F[j]),
                float(betas["activation"][j, ref]),
                null_level,
                nu["error"][j].item(),
                interval["error"][j].tolist(),
                nu["reconstruction"][j].item(),
                interval["reconstruction"][j].tolist(),
                site,
            )
            verdict.append(v)
            reason.append(why)
        return Verdicts(
            nu["error"], nu["reconstruction"], interval["error"], interval["reconstruction"], verdict, reason
        )

    def _decide(
        self,
        firings: int,
        beta: float,
        null: float,
        error: float,
        error_interval: list[float],
        rebuilt: float,
        rebuilt_interval: list[float],
        site: str,
    ) -> tuple[str, str]:
        options = self.options
        if firings < options.min_firings:
            return "undecided", f"only {firings} firings"
        if not beta > null:
            return "undecided", f"its direction explains no more than a random one (β {beta:.2g}, random {null:.2g})"
        if error_interval[0] > options.error_threshold:
            return "shared", f"ν^ε {error:.2f}: {site} has it, but its reconstruction leaves it out (shrinkage)"
        if rebuilt_interval[0] > options.reconstruction_threshold:
            return "shared", f"ν^r {rebuilt:.2f}: other latents rebuild it at {site} (decoupling)"
        if error_interval[1] < options.error_threshold and rebuilt_interval[1] < options.reconstruction_threshold:
            return "specific", f"ν^ε {error:.2f} and ν^r {rebuilt:.2f} are both low"
        return "undecided", (
            f"ν^ε in [{error_interval[0]:.2f}, {error_interval[1]:.2f}] and ν^r in [{rebuilt_interval[0]:.2f}, "
            f"{rebuilt_interval[1]:.2f}] straddle a threshold"
        )

    def _parts(
        self, name: str, reference: str, sums: ScalingSums, verdicts: Verdicts, share_F: Tensor, classes: list[str]
    ) -> list[Part]:
        alive = sums.firings_F >= self.options.min_firings
        order = share_F.nan_to_num(-1.0).masked_fill(~alive, -1.0).argsort(descending=True)[: self.options.top]
        rows = [
            (
                j,
                float(share_F[j]),
                classes[j],
                int(sums.firings_F[j]),
                float(verdicts.nu_error_F[j]),
                float(verdicts.nu_reconstruction_F[j]),
                verdicts.verdict[j],
                verdicts.reason[j],
            )
            for j in order.tolist()
            if alive[j]
        ]
        groups: dict[str, tuple[list[float], list[float]]] = {"other latents": ([], []), f"only {reference}": ([], [])}
        for j in alive.nonzero().squeeze(1).tolist():
            key = f"only {reference}" if classes[j] == f"only {reference}" else "other latents"
            groups[key][0].append(min(2.0, max(-1.0, float(verdicts.nu_error_F[j]))))
            groups[key][1].append(min(2.0, max(-1.0, float(verdicts.nu_reconstruction_F[j]))))
        drawing = scatter(
            groups,
            xlabel="ν^ε (error)",
            ylabel="ν^r (reconstruction)",
            vertical=self.options.error_threshold,
            horizontal=self.options.reconstruction_threshold,
        )
        return [
            Table(
                title=f"Most {reference}-leaning latents against {name}",
                columns=("latent", f"norm share at {reference}", "class", "firings", "ν^ε", "ν^r", "verdict", "reason"),
                rows=rows,
                note=f"Intervals at {self.options.confidence:.0%} from {self.options.blocks} blocks of sequences; "
                "the JSON lists every latent.",
            ),
            Figure(
                title=f"ν of every latent against {name}",
                svg=drawing.svg(),
                note="Clipped to [−1, 2]. Lower left of the dashed lines: truly specific.",
            ),
        ]
