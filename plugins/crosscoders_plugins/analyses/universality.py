"""Universality: do other crosscoders over the same sites find the same latents, or other ones?

*Matching* pairs latents by the cosine of their joint decoder vectors, one to one, against random rows of the same norms
(a metric of the literature gives 0.309 for trained and 0.300 for random dictionaries, so that a baseline is a must).

*Stitching* (Leask et al. 2025) asks what a latent of the other crosscoder would add to this one. With residual ε of
this one, inserting latent j of the other changes the squared error by

    Σ_i (f_ij² ‖d_j‖² − 2 f_ij d_j·ε_i)

It is *novel* where the error falls, and only another way to say what is said already where it rises. So a wider
dictionary either finds more, or packs the same less densely.
"""

from __future__ import annotations

from typing import Any

import torch
from attrs import field, frozen
from attrs.validators import and_, gt, lt, min_len
from torch import Tensor
from torch.nn import functional

from crosscoders import AnalysisError, Crosscoder, Figure, Note, Part, Report, Study, Table, match
from crosscoders.authoring import accumulator, precise, row_dots
from crosscoders.reports.figures import histogram

from .intervals import jackknife

KINDS = ("matched", "novel", "redundant", "undecided", "silent")


TERMS = {
    "matched": "There is a latent here that writes nearly the same directions.",
    "novel": "There is none, and this crosscoder would explain the activations better with it.",
    "redundant": "There is none, but what it says is said here already, in other words.",
}


@frozen(kw_only=True)
class UniversalityConfig:
    """With which crosscoders to compare, and what counts as the same latent."""

    others: tuple[Any, ...] = field(default=(), validator=min_len(0))
    """Crosscoders over the same sites: folders, Hub ids, names of releases, or crosscoders themselves."""
    similar: float = field(default=0.7, validator=and_(gt(0.0), lt(1.0)))
    """Cosine of joint decoder vectors from which on two latents count as the same."""
    confidence: float = field(default=0.95, validator=and_(gt(0.0), lt(1.0)))
    """With which the error must fall or rise for a latent to be novel or redundant."""
    blocks: int = field(default=32, validator=gt(7))
    """Contiguous blocks of rows for the errors of these changes."""
    top: int = field(default=20, validator=gt(0))
    """Number of novel latents listed on the page."""


@frozen(eq=False)
class Stitched:
    """What each latent of another crosscoder would change in this one's squared error."""

    change_F: Tensor
    """As a share of this one's error; negative where it falls."""
    low_F: Tensor
    high_F: Tensor
    firings_F: Tensor
    error: float
    """Mean squared error per token of this crosscoder, normalised units."""
    error_other: float
    """The same of the other, in this one's units."""


class Universality:
    """Analysis `universality`."""

    def __init__(self, options: UniversalityConfig) -> None:
        self.options = options

    @torch.no_grad()
    def run(self, study: Study) -> Report:
        """Matching and stitching of this crosscoder with each other one."""
        if not self.options.others:
            raise AnalysisError("no other crosscoder to compare with: give others, folders or Hub ids")
        parts: list[Part] = []
        lines, rows = [], []
        data: dict[str, Any] = {"sites": list(study.crosscoder.written.names), "others": []}
        for number, given in enumerate(self.options.others):
            name = f"{number + 1}: {given}" if isinstance(given, str) else f"{number + 1}"
            found = self.compare(study, crosscoder_of(given).to(study.crosscoder.device))
            data["others"].append({"name": name, **found})
            parts += self._parts(name, study.crosscoder, found)
            lines.append(_line(name, found))
            columns = ("partner", "cosine", "kind", "change", "firings")
            rows += [(name, j, *row) for j, row in enumerate(zip(*(found[c] for c in columns), strict=True))]
        parts.append(
            Note(
                text="Novel latents need not add up: several may say the same new thing. What all of them change at "
                "once is in the table. Matching says nothing about latents that fire rarely in this text."
            )
        )
        frame = Table(
            title="Latents of the others",
            columns=("other", "latent", "partner", "cosine", "kind", "change", "firings"),
            rows=rows,
        )
        return Report(terms=TERMS, title="Universality", summary=" ".join(lines), parts=parts, data=data, frame=frame)

    @torch.no_grad()
    def compare(self, study: Study, other: Crosscoder) -> dict[str, Any]:
        """All numbers about one other crosscoder."""
        ours = study.crosscoder
        matched = match(ours, other, seed=study.seed)
        F, similar = other.num_latents, self.options.similar
        partner_F = torch.full((F,), -1, dtype=torch.int64)
        cosine_F = torch.full((F,), float("nan"))
        partner_F[matched.latent_P2[:, 1]], cosine_F[matched.latent_P2[:, 1]] = (
            matched.latent_P2[:, 0],
            matched.cosine_P,
        )
        nearest_F, nearest_ours = nearest(other, ours), nearest(ours, other)
        stitched = self._stitched(study, other)
        kind = []
        for j in range(F):
            if stitched.firings_F[j] == 0:
                kind.append("silent")
            elif nearest_F[j] >= similar:
                kind.append("matched")
            elif stitched.high_F[j] < 0:
                kind.append("novel")
            else:
                kind.append("redundant" if stitched.low_F[j] > 0 else "undecided")
        novel = torch.tensor([k == "novel" for k in kind])
        together = self._with(study, other, novel) if bool(novel.any()) else stitched.error
        return {
            "num_latents": F,
            "partner": partner_F.tolist(),
            "cosine": cosine_F.tolist(),
            "random_cosine": matched.random_P.tolist(),
            "nearest": nearest_F.tolist(),
            "nearest_of_ours": nearest_ours.tolist(),
            "mean_cosine": matched.mean,
            "random_mean_cosine": matched.random_mean,
            "kind": kind,
            "change": stitched.change_F.tolist(),
            "change_interval": torch.stack([stitched.low_F, stitched.high_F], dim=1).tolist(),
            "firings": stitched.firings_F.tolist(),
            "error": stitched.error,
            "error_other": stitched.error_other,
            "error_with_novel": together,
        }

    def _stitched(self, study: Study, other: Crosscoder) -> Stitched:
        ours, G, F = study.crosscoder, self.options.blocks, other.num_latents
        rows = max(1, -(-study.num_tokens // study.activations.context_length))
        rows_FX = _rows_in_units_of(other, ours)
        norm_F = precise(rows_FX).square().sum(dim=1).cpu()
        change_GF = torch.zeros(G, F, dtype=torch.float64)
        firings_GF = torch.zeros(G, F, dtype=torch.float64)
        error_G = torch.zeros(G, dtype=torch.float64)
        error_other, count = 0.0, 0
        for batch in study.batches():
            left_BX = _residual(ours, batch)
            x_BX = batch.x_BX
            latents = other.encode(x_BX)
            block_B = ((batch.first_sequence + batch.place_B2[:, 0]) * G // rows).clamp_max(G - 1).cpu()
            value_N = latents.value_N.cpu().double()
            dots_N = precise(row_dots(left_BX, rows_FX, latents)).cpu()
            slot_N = block_B[latents.token_N.cpu()] * F + latents.latent_N.cpu()
            each_N = value_N.square() * norm_F[latents.latent_N.cpu()] - 2 * value_N * dots_N
            change_GF.view(-1).index_add_(0, slot_N, each_N)
            firings_GF.view(-1).index_add_(0, slot_N, torch.ones_like(each_N))
            error_G.index_add_(0, block_B, precise(left_BX.square().sum(dim=1)).cpu())
            theirs_BX = _in_units_of(other, ours, other.decode(latents, x_BX if other.wiring.skip else None))
            error_other += float(precise((ours.target(ours.normalised(x_BX)) - theirs_BX).square().sum()))
            count += len(x_BX)
        if not count:
            raise AnalysisError("the study has no tokens that count")

        def statistic(weight_RG: Tensor) -> Tensor:
            return (weight_RG @ change_GF) / (weight_RG @ error_G)[:, None].clamp_min(1e-300)

        held = error_G > 0
        change_GF, error_G, firings_GF = change_GF[held], error_G[held], firings_GF[held]
        estimate = jackknife(statistic, len(error_G), firings_GF)
        low_F, high_F = estimate.interval(self.options.confidence).unbind(dim=-1)
        return Stitched(
            estimate.value, low_F, high_F, firings_GF.sum(dim=0).long(), float(error_G.sum()) / count,
            error_other / count,
        )  # fmt: skip

    def _with(self, study: Study, other: Crosscoder, chosen_F: Tensor) -> float:
        """Mean squared error per token of this crosscoder with the chosen latents of the other inserted."""
        ours = study.crosscoder
        total, count = torch.zeros((), **accumulator(ours.device)), 0
        for batch in study.batches():
            latents = other.encode(batch.x_BX)
            part = latents.select(chosen_F.to(latents.latent_N.device)[latents.latent_N])
            raw_BX = other.normaliser.undo(other.decode_without_bias(part), other.written.names)
            total += precise((_residual(ours, batch) - _in_units_of(other, ours, raw_BX)).square().sum())
            count += len(batch.x_BX)
        return float(total) / count

    def _parts(self, name: str, ours: Crosscoder, found: dict[str, Any]) -> list[Part]:
        counts = {kind: found["kind"].count(kind) for kind in KINDS}
        F, similar = found["num_latents"], self.options.similar
        above = sum(value >= similar for value in found["nearest_of_ours"])
        random_above = sum(value >= similar for value in found["random_cosine"])
        facts = Table(
            title=f"Against {name}",
            columns=("", "value"),
            rows=[
                ("latents here, there", f"{ours.num_latents}, {F}"),
                ("mean cosine of matched pairs", found["mean_cosine"]),
                ("the same with random rows", found["random_mean_cosine"]),
                (f"latents here with one like it there (cosine ≥ {similar:g})", above),
                ("pairs as alike with random rows", random_above),
                *((f"latents there: {kind}", count) for kind, count in counts.items()),
                ("squared error per token, here", found["error"]),
                ("there, in the same units", found["error_other"]),
                ("here, with all novel latents of the other", found["error_with_novel"]),
            ],
            note="Novel: not like any latent here, and the error falls when it is inserted; redundant: it rises.",
        )
        drawing = histogram(
            {"matched": found["cosine"], "random rows": found["random_cosine"]},
            xlabel="cosine of joint decoder vectors",
            ylabel="pairs",
            log=False,
        )
        order = sorted(
            (j for j, kind in enumerate(found["kind"]) if kind == "novel"), key=lambda j: found["change"][j]
        )[: self.options.top]
        novel = Table(
            title=f"Novel latents of {name}",
            columns=("latent", "change of the error", "low", "high", "nearest here", "firings"),
            rows=[
                (j, found["change"][j], *found["change_interval"][j], found["nearest"][j], found["firings"][j])
                for j in order
            ],
            note="As a share of the squared error here; those that take away most.",
        )
        return [facts, Figure(title=f"Pairs with {name}", svg=drawing.svg()), novel]


def crosscoder_of(given: Any) -> Crosscoder:
    """A crosscoder, itself or by folder or Hub id."""
    return given if isinstance(given, Crosscoder) else Crosscoder.from_pretrained(given)


def _line(name: str, found: dict[str, Any]) -> str:
    counts = {kind: found["kind"].count(kind) for kind in KINDS}
    live = max(1, found["num_latents"] - counts["silent"])
    return (
        f"Of the {live} latents of {name} that fire, {counts['matched'] / live:.0%} are like one here, "
        f"{counts['novel'] / live:.0%} are novel and {counts['redundant'] / live:.0%} redundant; mean cosine of pairs "
        f"{found['mean_cosine']:.2f}, of random rows {found['random_mean_cosine']:.2f}."
    )


def _joint(crosscoder: Crosscoder, names: tuple[str, ...]) -> Tensor:
    """Joint decoder vectors in normalised units, of length 1, (F, X)."""
    rows_FX = torch.cat([crosscoder.decoder_rows(name) for name in names], dim=1)
    return functional.normalize(rows_FX, dim=1)


def nearest(a: Crosscoder, b: Crosscoder) -> Tensor:
    """For each latent of a, the largest cosine with one of b, (F,)."""
    names = a.written.names
    ours_FX, theirs_FX = _joint(a, names), _joint(b, names)
    return torch.cat([(part @ theirs_FX.T).amax(dim=1) for part in torch.split(ours_FX, 1024)]).cpu()


def _residual(crosscoder: Crosscoder, batch: Any) -> Tensor:
    """x − x̂ of the written sites in normalised units, (B, X)."""
    x_BX = crosscoder.normalised(batch.x_BX)
    return crosscoder.target(x_BX) - crosscoder.decode_normalised(batch.latents, x_BX)


def _in_units_of(other: Crosscoder, ours: Crosscoder, raw_BX: Tensor) -> Tensor:
    """Raw reconstructions of the other crosscoder in this one's normalised units and order of sites."""
    names, parts = ours.written.names, other.written.unpack(raw_BX)
    return torch.cat([parts[name] for name in names], dim=1) * ours.normaliser.scale_X(names)


def _rows_in_units_of(other: Crosscoder, ours: Crosscoder) -> Tensor:
    """The other crosscoder's decoder rows in this one's normalised units and order of sites, (F, X)."""
    every = list(range(other.num_latents))
    raw_FX = torch.cat([other.direction(every, name) for name in ours.written.names], dim=1)
    return raw_FX * ours.normaliser.scale_X(ours.written.names)
