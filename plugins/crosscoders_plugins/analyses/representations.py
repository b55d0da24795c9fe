"""Representations: how alike are the sites as wholes, beside how many latents they share?

SVCCA (Raghu et al. 2017) with rows shuffled as control, unbiased linear CKA (Kornblith et al. 2019; Song et al. 2012),
Procrustes similarity (Williams et al. 2021), and stitching by an affine map: what it explains of held-out activations,
and what the model loses that goes on from the mapped activations of another site.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, permutations

import torch
from attrs import field, frozen
from attrs.validators import and_, gt, le
from torch import Tensor

from crosscoders import AnalysisError, ConfigError, Figure, Note, Part, Report, Study, StudyBatch, Table
from crosscoders.authoring import pieces, precise, puts
from crosscoders.reports.figures import heatmap

from .moments import AffineMap, Moments, canonical_correlations, procrustes, unbiased_cka
from .norm_classes import SHARED, delta_norm, width_free_norms

ALIKE = ("cka", "procrustes", "svcca", "svcca_shuffled", "shared_latents")


TERMS = {
    "CKA": "How alike two sets of activations are up to a rotation, weighing directions by their variance: 0 to 1.",
    "SVCCA": "How well directions of one site are predicted from the other; to be compared with the shuffled control.",
    "stitching": "Going on from the activations of another site, put in the place of a model's own by a linear map.",
}


@frozen(kw_only=True)
class RepresentationsConfig:
    """Which sites are compared, and how."""

    sites: tuple[str, ...] = ()
    """The sites to compare; empty takes all that the crosscoder writes."""
    variance: float = field(default=0.99, validator=and_(gt(0.0), le(1.0)))
    """Share of the variance that SVCCA keeps at each site."""
    stitch: bool = True
    """Whether to measure what models lose with mapped activations of other sites."""
    stitch_tokens: int = field(default=8192, validator=gt(0))
    """Tokens of the second half of the text to measure that on."""


class Representations:
    """Analysis `representations`."""

    def __init__(self, options: RepresentationsConfig) -> None:
        self.options = options

    @torch.no_grad()
    def run(self, study: Study) -> Report:
        """Similarity of every pair of sites, and what stitching each into the other loses."""
        names = self._sites(study)
        fit, test = self._moments(study, names)
        whole = _joined(fit, test)
        pairs = {(a, b): self._alike(study, whole, a, b) for a, b in combinations(names, 2)}
        maps = {(a, b): AffineMap.of(fit, a, b) for a, b in permutations(names, 2)}
        explained = {pair: found.explained_variance(test, *pair) for pair, found in maps.items()}
        lost = self._stitched(study, maps, test) if self.options.stitch else {}
        return self._report(names, whole.count, pairs, explained, lost)

    def _sites(self, study: Study) -> tuple[str, ...]:
        written = study.crosscoder.written.names
        unknown = [name for name in self.options.sites if name not in written]
        if unknown:
            raise AnalysisError(f"'{unknown[0]}' is not a written site; the written sites are {', '.join(written)}")
        names = tuple(self.options.sites) or written
        if len(names) < 2:
            raise AnalysisError("representations are compared between sites, and there is only one")
        return names

    def _moments(self, study: Study, names: Sequence[str]) -> tuple[Moments, Moments]:
        """Of the first and the second half of the text; both with the same shift."""
        rows = -(-study.num_tokens // study.activations.context_length)
        generator = torch.Generator().manual_seed(study.seed)
        fit = Moments(names)
        test = Moments(names, shift=fit.shift)
        for batch in study.batches():
            x = study.crosscoder.layout.unpack(batch.x_BX)
            first_B = batch.first_sequence + batch.place_B2[:, 0] < rows / 2
            for half, mine_B in ((fit, first_B), (test, ~first_B)):
                half.add({name: x[name][mine_B] for name in names}, generator)
        if min(fit.count, test.count) < 4:
            raise AnalysisError("there are too few tokens to compare representations on")
        return fit, test

    def _alike(self, study: Study, moments: Moments, a: str, b: str) -> dict[str, float]:
        variance = self.options.variance
        return {
            "cka": unbiased_cka(moments, a, b),
            "procrustes": procrustes(moments, a, b),
            "svcca": float(canonical_correlations(moments, a, b, variance=variance).mean()),
            "svcca_shuffled": float(canonical_correlations(moments, a, b, variance=variance, kind="shuffled").mean()),
            "shared_latents": _shared(study, a, b),
        }

    def _stitched(
        self, study: Study, maps: Mapping[tuple[str, str], AffineMap], test: Moments
    ) -> dict[tuple[str, str], dict[str, float]]:
        """By pair: cross-entropy of the second site's model, clean, with mapped activations, with the mean in place."""
        rows = -(-study.num_tokens // study.activations.context_length)
        sums: dict[tuple[str, str], Tensor] = {}
        silent, seen = set[str](), 0
        for batch in study.batches():
            if batch.first_sequence < rows / 2 or seen >= self.options.stitch_tokens:
                continue
            seen += int(batch.keep_BT.sum())
            x = study.crosscoder.layout.unpack(batch.x_BTX)
            for pair, found in maps.items():
                key, _, point = pair[1].partition("/")
                if key in silent:
                    continue
                values = (found(x[pair[0]]), test.mean(pair[1]).to(x[pair[1]]).expand_as(x[pair[1]]))
                try:
                    losses = _losses(study, batch, key, point, values)
                except ConfigError:
                    silent.add(key)  # an encoder
                    continue
                sums[pair] = sums[pair] + losses if pair in sums else losses
        names = ("ce_clean", "ce_stitched", "ce_mean")
        result = {}
        for pair, (count, *totals) in ((pair, total.tolist()) for pair, total in sums.items()):
            losses_of = {name: total / max(1.0, count) for name, total in zip(names, totals, strict=True)}
            gap = losses_of["ce_mean"] - losses_of["ce_clean"]
            losses_of["recovered"] = (losses_of["ce_mean"] - losses_of["ce_stitched"]) / gap if gap else float("nan")
            result[pair] = losses_of
        return result

    def _report(
        self,
        names: Sequence[str],
        num_tokens: int,
        pairs: Mapping[tuple[str, str], Mapping[str, float]],
        explained: Mapping[tuple[str, str], float],
        lost: Mapping[tuple[str, str], Mapping[str, float]],
    ) -> Report:
        alike = Table(
            title="How alike sites are",
            columns=("site", "and", "CKA", "Procrustes", "SVCCA", "SVCCA of shuffled rows", "shared latents"),
            rows=[(*pair, *(found[kind] for kind in ALIKE)) for pair, found in pairs.items()],
            note="CKA and Procrustes are 1 for rotated copies. SVCCA means something only above its shuffled control, "
            "which is high where directions are many and tokens few. Shared latents: the share of latents that write "
            "either site whose norms there are alike (Δnorm 0.4 to 0.6).",
        )
        columns = ("ce_clean", "ce_stitched", "ce_mean", "recovered")
        stitching = Table(
            title="Stitching by an affine map",
            columns=("from", "to", "explained variance", "CE clean", "CE stitched", "CE of the mean", "recovered"),
            rows=[
                (*pair, value, *(lost[pair][c] if pair in lost else None for c in columns))
                for pair, value in explained.items()
            ],
            note="Fitted on the first half of the text, measured on the second. Cross-entropy (CE) in nats of the "
            "second site's model; recovered is (CE of the mean − stitched) / (CE of the mean − clean).",
        )
        parts: list[Part] = [alike, stitching]
        if len(names) > 2:
            table = [
                [1.0 if a == b else pairs.get((a, b), pairs.get((b, a), {})).get("cka") for b in names] for a in names
            ]
            drawing = heatmap(table, rows=names, columns=names, label="unbiased linear CKA")
            parts.append(Figure(title="CKA of all pairs", svg=drawing.svg()))
        parts.append(
            Note(
                text="Two sites can be alike as wholes and share few latents, or the other way round: CKA weighs "
                "directions by their variance, latents count alike."
            )
        )
        nearest = max(pairs, key=lambda pair: pairs[pair]["cka"])
        rows = [
            (*pair, explained[pair], *(lost[pair][c] if pair in lost else None for c in columns),
             *(pairs.get(pair, pairs.get(pair[::-1], {}))[kind] for kind in ALIKE))
            for pair in explained
        ]  # fmt: skip
        return Report(
            terms=TERMS,
            title="Representations",
            summary=f"The two most alike sites, {nearest[0]} and {nearest[1]}: CKA {pairs[nearest]['cka']:.3f}, shared "
            f"latents {pairs[nearest]['shared_latents']:.0%}.",
            parts=parts,
            data={
                "sites": list(names),
                "num_tokens": num_tokens,
                "pairs": [{"sites": list(pair), **found} for pair, found in pairs.items()],
                "stitching": [
                    {"from": pair[0], "to": pair[1], "explained_variance": value, **lost.get(pair, {})}
                    for pair, value in explained.items()
                ],
            },
            frame=Table(title="Pairs", columns=("from", "to", "explained_variance", *columns, *ALIKE), rows=rows),
        )


def _joined(fit: Moments, test: Moments) -> Moments:
    sums = {key: fit.sums[key] + test.sums[key] for key in fit.sums}
    return Moments(fit.names, fit.shift, fit.count + test.count, sums)


def _losses(study: Study, batch: StudyBatch, key: str, point: str, values: Sequence[Tensor]) -> Tensor:
    """Count, and sums of the loss of the model called `key`: clean, and with each of the values at the point."""
    total = torch.zeros(2 + len(values), dtype=torch.float64)
    for piece in pieces(study.adapter(key), key, batch.tokens):
        losses = [piece.loss(piece.clean_NV)]
        for value in values:
            edits = puts(key, batch.tokens, piece.rows, {point: value}, batch.keep_BT)
            losses.append(piece.loss(piece.changed(edits)))
        total[0] += len(losses[0])
        total[1:] += torch.stack([precise(loss.cpu()).sum() for loss in losses])
    return total


def _shared(study: Study, a: str, b: str) -> float:
    """Share of the latents that write either site whose norms at both are alike."""
    names = study.crosscoder.written.names
    norms_F2 = width_free_norms(study.crosscoder)[:, [names.index(a), names.index(b)]]
    written = norms_F2.amax(dim=1) > 0
    delta_F = delta_norm(norms_F2[written])
    if not len(delta_F):
        return float("nan")
    return float(((delta_F >= SHARED[0]) & (delta_F <= SHARED[1])).float().mean())
