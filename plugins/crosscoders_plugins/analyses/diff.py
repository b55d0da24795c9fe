"""Diff report: what did fine-tuning add, remove and change, and how sure is that?

One line for each latent, made from everything that is measured of it: the verdict of `latent_scaling`, twins, the share
of its activation on tokens of the chat template, how often it fires, what it carries of the KL between the models
(`causal_kl`), whether crosscoders of other seeds have it, and what a null pair, a model against its copy, would give.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from attrs import asdict, field, frozen
from attrs.validators import ge, gt

from crosscoders import (
    AnalysisError,
    ConfigError,
    Entries,
    Entry,
    Note,
    Report,
    Study,
    Table,
)
from crosscoders.authoring import Arm, Patching, activity, patched, precise

from .causal_kl import NONE, SAME
from .evidence import Evidence, activity_of, held_against, null_of, rank
from .latent_scaling import TERMS as SCALING_TERMS
from .latent_scaling import LatentScaling, LatentScalingConfig
from .twins import twins
from .universality import crosscoder_of, nearest

TERMS = {
    **SCALING_TERMS,
    "KL": "How differently two models predict the next token, in nats: 0 where they agree.",
    "share of the KL": "How much of the difference between the models goes when these latents do in one model what "
    "they do in the other.",
    "twin": "A latent of the other model that writes nearly the same direction: perhaps one concept that was split.",
    "null pair": "A crosscoder of a model against its copy. Nothing is specific there; what is called so is chance.",
}
STRENGTHS = ("relative_strength", "relative_strength_interval")
"""Numbers of `latent_scaling`, beside ν, that the data repeat: what verdicts rest on."""


@frozen(kw_only=True)
class DiffConfig:
    """Which models are compared, what evidence is gathered, and how much is shown."""

    before: str = ""
    """Key of the model before fine-tuning; empty takes the model of the first site."""
    after: str = ""
    """Key of the model after fine-tuning; empty takes the model of the last site."""
    scaling: LatentScalingConfig = field(factory=LatentScalingConfig)
    """Options of the verdicts; see `latent_scaling`."""
    null: Any = None
    """A crosscoder of a model against its copy, trained alike: a folder, Hub id, or the crosscoder itself."""
    others: tuple[Any, ...] = ()
    """Crosscoders of the same sites with other seeds: folders, Hub ids, or crosscoders."""
    kl_tokens: int = field(default=8192, validator=ge(0))
    """Tokens of the study on which the causal KL of sets and of the listed latents is measured; 0 leaves it out."""
    top: int = field(default=15, validator=gt(0))
    """Number of latents of each verdict that are listed with examples."""
    examples: int = field(default=5, validator=ge(1))
    """Number of contexts shown for each of them."""


class Diff:
    """Analysis `diff`."""

    def __init__(self, options: DiffConfig) -> None:
        self.options = options

    @torch.no_grad()
    def run(self, study: Study) -> Report:
        """One line for each latent, the evidence behind it, and how sure all of it is."""
        models = [site.model for site in study.crosscoder.written.sites]
        before, after = self.options.before or models[0], self.options.after or models[-1]
        if before == after:
            raise AnalysisError(f"a diff compares two models, and this crosscoder's sites are all of '{after}'")
        evidence = self._evidence(study)
        listed = self._listed(evidence)
        evidence.causal.update(self._causal(study, before, after, evidence, listed))
        listed.sort(key=lambda j: (rank(evidence.verdict[j]), -evidence.causal.get(f"latent {j}", 0.0)))
        return self._report(study, before, after, evidence, listed)

    def _evidence(self, study: Study) -> Evidence:
        scaling = LatentScaling(self.options.scaling).run(study).data
        null = None if self.options.null is None else null_of(self._null(study))
        verdict, reason = held_against(null, scaling)
        leaning = [
            home if kind.startswith("only") or said.startswith(("specific", "mostly")) else ""
            for home, kind, said in zip(scaling["home"], scaling["class"], verdict, strict=True)
        ]
        device = study.crosscoder.device
        seeds = [nearest(study.crosscoder, crosscoder_of(given).to(device)).tolist() for given in self.options.others]
        return Evidence(
            scaling, verdict, reason, activity_of(study), twins(study, leaning), seeds, null, study.explanations
        )

    def _null(self, study: Study) -> Mapping[str, Any]:
        """The verdicts on the null pair's crosscoder, on the same text."""
        crosscoder = crosscoder_of(self.options.null).to(study.crosscoder.device)
        # Both sides of a null pair are one model: the one before fine-tuning where keys are others.
        first = next(iter(study.adapters.values()))
        adapters = {site.model: study.adapters.get(site.model, first) for site in crosscoder.sites}
        if len({id(adapter) for adapter in adapters.values()}) > 1:
            adapters = dict.fromkeys(adapters, first)
        return LatentScaling(self.options.scaling).run(study.with_crosscoder(crosscoder, adapters)).data

    def _listed(self, evidence: Evidence) -> list[int]:
        """The latents that are shown: of each verdict those that put most into their home."""
        strength, home = evidence.scaling["strength"], evidence.scaling["home"]
        listed: list[int] = []
        for kind in evidence.kinds:
            mine = [j for j in evidence.of_kind(kind) if evidence.activity.firings[j]]
            mine.sort(key=lambda j: (-evidence.activity.energy[j] * strength[home[j]][j] ** 2, j))
            listed += mine[: 3 if kind in ("shared", "undecided") else self.options.top]
        return listed

    def _causal(
        self, study: Study, before: str, after: str, evidence: Evidence, listed: Sequence[int]
    ) -> dict[str, float]:
        """The share of the KL between the models that each verdict's latents and the listed ones carry, if known."""
        if not self.options.kl_tokens:
            return {}
        study = study.with_tokens(min(self.options.kl_tokens, study.num_tokens))
        arms = {NONE: Arm(latents=()), "all latents": Arm()}
        arms |= {kind: Arm(evidence.of_kind(kind)) for kind in evidence.kinds}
        arms |= {f"latent {j}": Arm([j]) for j in listed}
        total, count = dict.fromkeys(arms, 0.0), 0
        try:
            for part in patched(Patching.of(study, after, before), arms):
                count += len(part.place_N2)
                for name, kl_N in part.kl.items():
                    total[name] += float(precise(kl_N).sum())
        except (AnalysisError, ConfigError):
            return {}  # models of different vocabularies, sites of different width, or encoders
        base = total.pop(NONE)
        if base <= SAME * count:
            return {}
        return {name: 1 - value / base for name, value in total.items()}

    def _report(self, study: Study, before: str, after: str, evidence: Evidence, listed: Sequence[int]) -> Report:
        every, counts = range(len(evidence.verdict)), Counter(evidence.verdict)
        lines = [evidence.line(j) for j in every]
        against = "no null pair was given"
        if evidence.null is not None:
            against = f"of the null pair's {evidence.null.latents} latents {evidence.null.specific} are called specific"
        specific = sum(count for kind, count in counts.items() if kind.startswith("specific"))
        surely = f"{specific} latents are specific to one model" if specific else "No latent is specific to one model"
        twin = [evidence.twins.get(j) for j in every]
        columns: dict[str, Sequence[Any]] = {
            "verdict": evidence.verdict,
            "verdict_without_null": evidence.scaling["verdict"],
            "class": evidence.scaling["class"],
            "home": evidence.scaling["home"],
            "density": evidence.activity.density,
            "template_share": evidence.activity.template,
            "twin": [each and each.latent for each in twin],
            "twin_cosine": [each and each.cosine for each in twin],
            "twin_divergence": [each and each.divergence for each in twin],
            "kl_recovered": [evidence.causal.get(f"latent {j}") for j in every],
            "nearest_elsewhere": [_mean([each[j] for each in evidence.seeds]) for j in every],
            "line": lines,
        }
        tally = ", ".join(f"{counts[kind]} {kind}" for kind in evidence.kinds)
        return Report(
            terms=TERMS,
            title="Diff",
            summary=f"{surely}. Of all {len(every)}: {tally}; {against}.",
            parts=[
                self._counts(evidence, before, after, against),
                self._entries(study, evidence, listed, lines),
                Note(
                    title="How sure is this?",
                    text="Verdicts are about this crosscoder on this kind of text: a concept that it has not found has "
                    "no latent here. Crosscoders trained with other seeds (others), and one of a model against its "
                    "copy (null), say how much is chance.",
                ),
            ],
            data={
                "before": before,
                "after": after,
                "null": evidence.null and asdict(evidence.null),
                "causal": evidence.causal,
                "listed": list(listed),
                **{name: evidence.scaling[name] for name in ("sites", "against", *STRENGTHS)},
                **{name: list(values) for name, values in columns.items()},
            },
            frame=Table(
                title="Latents",
                columns=("latent", *columns),
                rows=[(j, *row) for j, row in enumerate(zip(*columns.values(), strict=True))],
            ),
        )

    def _counts(self, evidence: Evidence, before: str, after: str, against: str) -> Table:
        rows = []
        for kind in evidence.kinds:
            firing = [j for j in evidence.of_kind(kind) if evidence.activity.firings[j]]
            rows.append((
                kind, len(evidence.of_kind(kind)), len(firing),
                _mean([evidence.activity.density[j] for j in firing]),
                _mean([evidence.activity.template[j] for j in firing]),
                sum(j in evidence.twins for j in firing), evidence.causal.get(kind),
            ))  # fmt: skip
        return Table(
            title="Verdicts",
            columns=("verdict", "latents", "of them firing", "mean density", "share on template tokens", "with a twin",
                     "share of the KL"),
            rows=rows,
            note=f"At most {evidence.scaling['false_discoveries']:.0%} of each kind are so by chance; {against}. Share "
            f"of the KL: of that between {before}'s activations and {after}'s own in {after}'s layers, what goes when "
            f"{after}'s share of these latents is added.",
        )  # fmt: skip

    def _entries(self, study: Study, evidence: Evidence, listed: Sequence[int], lines: Sequence[str]) -> Entries:
        seen = activity(study, listed, per_latent=self.options.examples)
        return Entries(
            title="Latents",
            entries=[
                Entry(
                    heading=f"latent {j}",
                    group=evidence.verdict[j],
                    line=lines[j],
                    facts=evidence.facts(j),
                    contexts=seen.contexts[j],
                )
                for j in listed
            ],
            note="Of each verdict the latents that put most into the model, by what they carry of the KL. Open "
            "one for what is behind its line.",
        )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
