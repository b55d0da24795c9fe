"""What is known of each latent in a diff: numbers from several analyses, put into one line of words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from attrs import field, frozen

from crosscoders import Study
from crosscoders.authoring import precise

from .twins import Twin

ORDER = ("specific", "mostly", "rotated", "undecided", "shared")
TEMPLATE = 0.5
"""Share of a latent's activation on tokens of the chat template from which on that is said."""
SAME = 0.7
"""Cosine of joint decoder vectors from which on another crosscoder has the same latent."""


@frozen(eq=False)
class Activity:
    """How each latent is active in a study's text."""

    firings: list[int]
    density: list[float]
    energy: list[float]
    """Mean of f² over all tokens."""
    template: list[float]
    """Share of its activation on special tokens, those of the chat template."""


@frozen(eq=False)
class Null:
    """What a crosscoder of a model against its copy is told about its latents."""

    latents: int
    exclusive: int
    """How many have a norm of hardly more than 0 in one of the models."""
    confirmed: int
    """How many of those are called specific."""
    specific: int
    strongest: float | None
    """The smallest strength elsewhere, upper end, of a latent that is called specific; None where none is."""


@frozen(eq=False)
class Evidence:
    """Everything about all latents of one crosscoder."""

    scaling: Mapping[str, Any]
    """Data of `latent_scaling`."""
    verdict: list[str]
    """Its verdicts, less those that the null pair would be told too."""
    reason: list[str]
    activity: Activity
    twins: Mapping[int, Twin]
    seeds: Sequence[Sequence[float]]
    """For each other crosscoder, the cosine of each latent with the nearest one there."""
    null: Null | None
    explanations: Mapping[int, str] = field(factory=dict)
    causal: dict[str, float] = field(factory=dict)
    """Share of the KL between the models that sets of latents carry, by name: verdicts, and `latent N`."""

    @property
    def kinds(self) -> list[str]:
        """The verdicts that there are, in order."""
        return sorted(set(self.verdict), key=rank)

    def of_kind(self, kind: str) -> list[int]:
        """The latents with a verdict."""
        return [j for j, verdict in enumerate(self.verdict) if verdict == kind]

    def line(self, j: int) -> str:
        """The verdict on one latent in words."""
        if not self.activity.firings[j]:
            return "Does not fire in this text."
        verdict, reason, twin = self.verdict[j], self.reason[j], self.twins.get(j)
        parts = [f"{verdict[0].upper()}{verdict[1:]}" + (f": {reason}." if reason else ".")]
        fires = f"Fires on {self.activity.density[j]:.2%} of tokens"
        if self.activity.template[j] > TEMPLATE:
            fires += f", {self.activity.template[j]:.0%} of it on tokens of the chat template"
        parts.append(f"{fires}.")
        if twin is not None:
            apart = "fires apart from" if twin.divergence > 0.5 else "fires together with"
            parts.append(
                f"Its twin in the other model is latent {twin.latent} (cosine {twin.cosine:.2f}), which {apart} it."
            )
        if j in self.explanations:
            parts.append(f"Explained as: {self.explanations[j].rstrip('.')}.")
        if f"latent {j}" in self.causal:
            parts.append(f"Alone it carries {self.causal[f'latent {j}']:.1%} of the KL between the models.")
        if self.seeds:
            agree = sum(each[j] >= SAME for each in self.seeds)
            parts.append(f"{agree} of {len(self.seeds)} other crosscoders have it too.")
        return " ".join(parts)

    def facts(self, j: int) -> dict[str, Any]:
        """What is behind the line, by name."""
        scaling, home = self.scaling, self.scaling["home"][j]
        facts: dict[str, Any] = {
            "class by norms": scaling["class"][j],
            "home": home,
            "firings": self.activity.firings[j],
            "density": self.activity.density[j],
            "share on template tokens": self.activity.template[j],
        }
        labels = {"relative_strength": "strength", "borne_out": "borne out", "cosine": "cosine"}
        for kind, label in labels.items():
            facts |= {f"{label}, {site}": values[j] for site, values in scaling[kind].items() if site != home}
        for site, numbers in scaling["against"].items():
            facts[f"ν^ε, {site}"], facts[f"ν^r, {site}"] = numbers["nu_error"][j], numbers["nu_reconstruction"][j]
        if j in self.twins:
            facts |= {"twin": self.twins[j].latent, "twin's cosine": self.twins[j].cosine,
                      "divergence": self.twins[j].divergence}  # fmt: skip
        if f"latent {j}" in self.causal:
            facts["share of the KL"] = self.causal[f"latent {j}"]
        return facts | {f"nearest in crosscoder {n + 1}": each[j] for n, each in enumerate(self.seeds)}


def rank(verdict: str) -> tuple[int, str]:
    """In which order verdicts are told."""
    return next(i for i, kind in enumerate(ORDER) if verdict.startswith(kind)), verdict


def strength_elsewhere(scaling: Mapping[str, Any], j: int) -> float:
    """The upper end of a latent's strength at other sites, as a share of that at home: small where it is specific."""
    intervals = scaling["relative_strength_interval"]
    return max((found[j][1] for site, found in intervals.items() if site != scaling["home"][j]), default=1.0)


def null_of(scaling: Mapping[str, Any]) -> Null:
    """From the data of `latent_scaling` on a null pair."""
    called = [j for j, verdict in enumerate(scaling["verdict"]) if verdict.startswith("specific")]
    strongest = min((strength_elsewhere(scaling, j) for j in called), default=None)
    exclusive = [j for j, kind in enumerate(scaling["class"]) if kind.startswith("only")]
    confirmed = len(set(called) & set(exclusive))
    return Null(len(scaling["verdict"]), len(exclusive), confirmed, len(called), strongest)


def held_against(null: Null | None, scaling: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Verdicts and reasons; undecided where a latent of the null pair has evidence as strong for being specific."""
    verdicts, reasons = list(scaling["verdict"]), list(scaling["reason"])
    if null is not None and null.strongest is not None:
        for j, verdict in enumerate(verdicts):
            if verdict.startswith("specific") and strength_elsewhere(scaling, j) >= null.strongest:
                verdicts[j] = "undecided"
                reasons[j] = "the evidence is no stronger than for a latent of the null pair"
    return verdicts, reasons


def activity_of(study: Study) -> Activity:
    """From the study's text."""
    seen = study.census()
    template_F = torch.zeros_like(seen.sum_F)
    for batch in study.batches():
        latents = batch.latents
        special_B = batch.tokens.special[batch.keep_BT].cpu()
        on_template_N = precise(latents.value_N.detach().cpu()) * special_B[latents.token_N.cpu()]
        template_F.index_add_(0, latents.latent_N.cpu(), on_template_N)
    return Activity(
        seen.firings_F.tolist(),
        (precise(seen.firings_F) / seen.num_tokens).tolist(),
        (seen.square_F / seen.num_tokens).tolist(),
        (template_F / seen.sum_F).nan_to_num(0.0).tolist(),
    )
