"""Causal KL: how much of the difference in behaviour between two models do sets of latents carry?

One model's activations go on in the layers of the other, and its own share of some latents, Σ_{j∈S} f_j (d_j^source −
d_j^target), is added (Minder et al. 2025, §4). What counts is KL from the source's own next-token distribution:

    recovered(S) = 1 − KL(S) / KL(∅)

With all latents and the rest of the difference the source itself runs, and KL is 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from attrs import field, frozen
from attrs.validators import and_, ge, gt, in_, lt
from torch import Tensor

from crosscoders import AnalysisError, ConfigError, Crosscoder, Figure, Note, Report, Study, Table
from crosscoders.authoring import Arm, Patching, patched, precise
from crosscoders.reports.figures import forest

from .intervals import jackknife
from .norm_classes import delta_norm

NONE, ALL, EXACT = "no latent", "all latents", "all latents and the rest"
SAME = 1e-6
"""Mean KL, nats per token, below which two models predict the same, so that there is nothing to recover."""
FIRST = 9
"""Tokens at the start of an answer that are counted by themselves, as the paper does."""
KINDS = ("all tokens", f"first {FIRST} of an answer", "later in an answer")


TERMS = {
    "KL": "How differently two models predict the next token, in nats: 0 where they agree.",
    "recovered": "The share of that difference which goes when a set of latents does in one model what it does in the "
    "other: 1 is all of it.",
}


@frozen(kw_only=True)
class CausalKLConfig:
    """Which model is patched into which, and which sets of latents are compared."""

    source: str = ""
    """Key of the model whose behaviour is to be recovered; empty takes the model of the last site."""
    target: str = ""
    """Key of the model that is patched; empty takes the model of the first site."""
    by: Literal["delta_norm", "energy"] = field(default="delta_norm", validator=in_(("delta_norm", "energy")))
    """What ranks latents: their share of decoder norm at the source, or E f² ‖d^source − d^target‖²."""
    share: float = field(default=0.5, validator=and_(gt(0.0), lt(1.0)))
    """Share of the latents that fire, in the arms of the most and the least, and in the random ones."""
    random_sets: int = field(default=5, validator=ge(0))
    """Number of random sets of the same size."""
    sets: Mapping[str, tuple[int, ...]] = field(factory=dict)
    """Further sets of latents by name."""
    num_tokens: int = field(default=16_384, validator=gt(0))
    """Tokens of the study to run on: every set costs one forward pass over them."""
    confidence: float = field(default=0.9, validator=and_(gt(0.0), lt(1.0)))
    """Of the intervals, by the jackknife over contiguous blocks of rows."""
    blocks: int = field(default=32, validator=ge(8))
    """Number of these blocks."""

    def __attrs_post_init__(self) -> None:
        taken = set(self.sets) & {NONE, ALL, EXACT}
        if taken:
            raise ConfigError(f"a set of latents cannot be called '{taken.pop()}', which is an arm of its own")


class CausalKL:
    """Analysis `causal_kl`."""

    def __init__(self, options: CausalKLConfig) -> None:
        self.options = options

    @torch.no_grad()
    def run(self, study: Study) -> Report:
        """KL and recovered share of every set of latents, with intervals."""
        study, sites = study.with_tokens(min(self.options.num_tokens, study.num_tokens)), study.crosscoder.sites
        source, target = self.options.source or sites[-1].model, self.options.target or sites[0].model
        patching = Patching.of(study, source, target)
        arms = self.arms(study, patching)
        kl_GAK, count_GK = self._sums(study, patching, arms)
        kinds = [k for k in range(len(KINDS)) if count_GK[:, k].sum() > 0]
        if not kinds:
            raise AnalysisError("there is no token to predict")
        found = {KINDS[k]: self._recovered(list(arms), kl_GAK[:, :, k], count_GK[:, k]) for k in kinds}
        data = {
            "source": source,
            "target": target,
            "points": list(patching.points),
            "by": self.options.by,
            "num_tokens": int(count_GK[:, 0].sum()),
            "sets": {name: None if arm.latents is None else list(arm.latents) for name, arm in arms.items()},
            "kl": {kind: numbers["kl"] for kind, numbers in found.items()},
            "recovered": {kind: numbers["recovered"] for kind, numbers in found.items()},
            "recovered_interval": {kind: numbers["interval"] for kind, numbers in found.items()},
        }
        return self._report(data, arms)

    def arms(self, study: Study, patching: Patching) -> dict[str, Arm]:
        """The sets to compare, by name."""
        crosscoder = study.crosscoder
        seen = study.census()
        live = (seen.firings_F > 0).nonzero().squeeze(1)
        if len(live) < 2:
            raise AnalysisError("fewer than two latents fire on these tokens, so there are no sets to compare")
        score_F = _delta_norm(crosscoder, patching)
        if self.options.by == "energy":
            turn_F = precise(patching.turn(range(crosscoder.num_latents)).cpu()).square().sum(dim=1)
            score_F = seen.square_F * turn_F
        order = live[score_F[live].argsort(descending=True, stable=True)]
        size = max(1, round(self.options.share * len(live)))
        arms = {NONE: Arm(latents=()), ALL: Arm(), EXACT: Arm(with_error=True)}
        arms[f"most by {self.options.by}"] = Arm(sorted(order[:size].tolist()))
        arms[f"least by {self.options.by}"] = Arm(sorted(order[-size:].tolist()))
        generator = torch.Generator().manual_seed(study.seed)
        for number in range(self.options.random_sets):
            drawn = live[torch.randperm(len(live), generator=generator)[:size]]
            arms[f"random {number + 1}"] = Arm(sorted(drawn.tolist()))
        for name, latents in self.options.sets.items():
            outside = [j for j in latents if not 0 <= j < crosscoder.num_latents]
            if outside:
                raise AnalysisError(f"the set '{name}' has latent {outside[0]}; there are {crosscoder.num_latents}")
            arms[name] = Arm(list(latents))
        return arms

    def _sums(self, study: Study, patching: Patching, arms: Mapping[str, Arm]) -> tuple[Tensor, Tensor]:
        """Σ KL by block, arm and kind of token, and the number of tokens, float64."""
        G = self.options.blocks
        rows = -(-study.num_tokens // study.activations.context_length)
        kl_GAK = torch.zeros(G, len(arms), len(KINDS), dtype=torch.float64)
        count_GK = torch.zeros(G, len(KINDS), dtype=torch.float64)
        for part in patched(patching, arms):
            block_N = (part.place_N2[:, 0] * G // max(1, rows)).clamp_max(G - 1)
            answer_N = part.next_in_answer_N
            is_NK = torch.stack(
                [torch.ones_like(answer_N, dtype=torch.bool), (answer_N >= 0) & (answer_N < FIRST), answer_N >= FIRST],
                dim=1,
            ).double()
            kl_NA = precise(torch.stack(list(part.kl.values()), dim=1))
            count_GK.index_add_(0, block_N, is_NK)
            kl_GAK.index_add_(0, block_N, kl_NA[:, :, None] * is_NK[:, None, :])
        return kl_GAK, count_GK

    def _recovered(self, names: list[str], kl_GA: Tensor, count_G: Tensor) -> dict[str, dict[str, Any]]:
        """Mean KL, share recovered and its interval, by arm, from sums over blocks."""
        base = names.index(NONE)

        def statistic(weight_RG: Tensor) -> Tensor:
            total_RA = weight_RG @ kl_GA
            nothing_R1 = total_RA[:, base : base + 1] <= SAME * float(count_G.sum())
            return (1 - total_RA / total_RA[:, base : base + 1]).masked_fill(nothing_R1, float("nan"))

        held = count_G > 0
        kl_GA, kept = kl_GA[held], int(held.sum())
        mass_GA = kl_GA[:, base : base + 1].expand_as(kl_GA)
        estimate = jackknife(statistic, kept, mass_GA) if kept > 1 else None
        value_A = statistic(torch.ones(1, kept, dtype=torch.float64))[0]
        nothing = [[float("nan")] * 2] * len(names)
        limits = nothing if estimate is None else estimate.interval(self.options.confidence).tolist()
        mean_A = kl_GA.sum(dim=0) / count_G.sum()
        return {
            "kl": dict(zip(names, mean_A.tolist(), strict=True)),
            "recovered": dict(zip(names, value_A.tolist(), strict=True)),
            "interval": dict(zip(names, limits, strict=True)),
        }

    def _report(self, data: dict[str, Any], arms: Mapping[str, Arm]) -> Report:
        source, target = data["source"], data["target"]
        most, least = (f"{end} by {data['by']}" for end in ("most", "least"))
        recovered = data["recovered"][KINDS[0]]
        random = [recovered[name] for name in arms if name.startswith("random ")]
        rows = [
            (name, "all" if arm.latents is None else len(arm.latents), kind, data["kl"][kind][name],
             data["recovered"][kind][name], *data["recovered_interval"][kind][name])
            for kind in data["kl"] for name, arm in arms.items()
        ]  # fmt: skip
        columns = ("set", "latents", "tokens", "KL, nats", "recovered", "low", "high")
        table = Table(
            title="KL from the source's predictions",
            columns=columns,
            rows=rows,
            note=f"Intervals at {self.options.confidence:.0%} over blocks of text. '{EXACT}' is a check: the layers of "
            f"{source} on its own activations, so 0 but for rounding and for tokens that masks leave out.",
        )
        drawing = forest(
            {
                kind: {
                    name: (value, *data["recovered_interval"][kind][name])
                    for name, value in values.items()
                    if name not in (NONE, EXACT)
                }
                for kind, values in data["recovered"].items()
            },
            xlabel="share of KL recovered",
        )
        against = f", random sets of the same size {min(random):.2f} to {max(random):.2f}" if random else ""
        summary = (
            f"Of the KL between {target}'s activations and {source}'s under {source}'s layers, all latents recover "
            f"{recovered[ALL]:.2f}; the {self.options.share:.0%} with the most {data['by']} {recovered[most]:.2f}, "
            f"those with the least {recovered[least]:.2f}{against}."
        )
        if math.isnan(recovered[ALL]):
            summary = f"{target}'s activations do as well as {source}'s own in its layers: there is nothing to recover."
        return Report(
            terms=TERMS,
            title="Causal KL",
            summary=summary,
            parts=[
                table,
                Figure(title="Recovered by each set", svg=drawing.svg()),
                Note(text="A set recovers much because its latents differ between the models, or because they differ "
                "and fire often; compare with random sets of the same size, not with 0."),
            ],
            data=data,
            frame=table,
        )  # fmt: skip


def _norms(crosscoder: Crosscoder, model: str, points: tuple[str, ...]) -> Tensor:
    """Norm of each latent's rows at a model's points taken together, normalised units, (F,)."""
    rows = [crosscoder.decoder_rows(f"{model}/{point}").detach().cpu() for point in points]
    norm_F: Tensor = torch.cat(rows, dim=1).norm(dim=1)
    return norm_F


def _delta_norm(crosscoder: Crosscoder, patching: Patching) -> Tensor:
    """Δnorm of the rows at all points together, (F,): 1 is only in the source."""
    return delta_norm(
        torch.stack([_norms(crosscoder, model, patching.points) for model in (patching.target, patching.source)], dim=1)
    )
