"""Logit-difference amplification: bring out behaviour that fine-tuning made possible but rare.

It detects but does not measure: hit rates at α > 0 cannot be converted to the rate at α = 0. `sampling` has the
formula.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import torch
from attrs import field, frozen
from attrs.validators import and_, gt, lt, min_len

from crosscoders import (
    AnalysisError,
    Chat,
    ConfigError,
    Figure,
    ModelAdapter,
    Note,
    Part,
    Report,
    Study,
    Table,
    TokenIds,
    is_held_out,
)
from crosscoders.reports.figures import curves

from .sampling import Samples, SamplingConfig, sample

TERMS = {
    "α": "The strength of amplification. Answers are drawn from logits_after + α (logits_after − logits_before): "
    "at 0 from the model as it is, above 0 what fine-tuning changed is exaggerated.",
    "nats per token": "How surprising a text is to a model, on average, by token: −log p. The larger, the stranger.",
    "design effect": "Answers to one question resemble each other; this says how many of them are worth one "
    "independent answer, and makes the intervals wider.",
}


@frozen(kw_only=True)
class AmplificationConfig:
    """Which models, prompts and strengths to use, and what to look for in the answers."""

    before: str = ""
    """Key of the model before fine-tuning; empty takes the model of the first site."""
    after: str = ""
    """Key of the model after fine-tuning; empty takes the model of the last site."""
    alphas: tuple[float, ...] = field(default=(0.0, 0.3, 0.6, 1.0, 1.5), validator=min_len(1))
    """The strengths α of amplification."""
    prompts: tuple[str, ...] = ()
    """The questions to answer; empty takes the first questions of held-out chats from the study's token source."""
    num_prompts: int = field(default=100, validator=gt(0))
    """Number of held-out questions to take if `prompts` is empty."""
    samples_per_prompt: int = field(default=4, validator=gt(0))
    """Number of answers to each question."""
    patterns: Mapping[str, str] = field(factory=dict)
    """Regular expressions by name; an answer in which one is found is a hit."""
    sampling: SamplingConfig = field(factory=SamplingConfig)
    """How tokens are sampled."""
    batch_rows: int = field(default=200, validator=gt(0))
    """Number of answers generated in one batch."""
    control: bool = True
    """Whether to amplify the model after fine-tuning against itself as a control, which must change nothing."""
    confidence: float = field(default=0.95, validator=and_(gt(0.0), lt(1.0)))
    """Of the intervals, which count questions and not answers as independent."""
    shown: int = 4
    """Number of answers shown for each strength, hits first."""

    def __attrs_post_init__(self) -> None:
        for name, pattern in self.patterns.items():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ConfigError(f"the pattern '{name}' is not a regular expression: {error}") from error


class Amplification:
    """Analysis `amplification`."""

    def __init__(self, options: AmplificationConfig) -> None:
        self.options = options
        self.patterns = {name: re.compile(pattern) for name, pattern in options.patterns.items()}

    def run(self, study: Study) -> Report:
        """Report hit rates, coherence and samples at every α."""
        options = self.options
        sites = study.crosscoder.sites
        before_key, after_key = options.before or sites[0].model, options.after or sites[-1].model
        before, after = study.adapter(before_key), study.adapter(after_key)
        if before.vocabulary() != after.vocabulary():
            raise AnalysisError(
                f"models {before_key} and {after_key} have different vocabularies, so logits do not match"
            )
        questions = list(options.prompts) or held_out_questions(study, options.num_prompts)
        arms = {alpha: self._samples(study, after, before, questions, alpha) for alpha in options.alphas}
        control = None
        if options.control:
            strongest = max(options.alphas, key=abs)
            control = strongest, self._samples(study, after, after, questions, strongest)
        texts = {alpha: [after.text(ids) for ids in samples.ids] for alpha, samples in arms.items()}
        rows = [self._row(f"{alpha:g}", arms[alpha], texts[alpha]) for alpha in options.alphas]
        if control:
            control_texts = [after.text(ids) for ids in control[1].ids]
            rows.append(self._row(f"{control[0]:g}, {after_key} against itself", control[1], control_texts))
        columns = ["α", "answers", f"nats per token, {after_key}", f"nats per token, {before_key}"]
        columns += [
            f"{name}: {what}" for name in self.patterns for what in ("hits", "rate", "low", "high", "design effect")
        ]
        parts: list[Part] = [
            Table(
                title="Hit rates and coherence",
                columns=columns,
                rows=rows,
                note=f"Intervals at {options.confidence:.0%}, by Wilson's formula at the number of independent "
                "answers: those to one question agree, so their number is divided by the design effect. Coherence is "
                "the mean negative log-likelihood of the answers: text has come apart where it leaves the level of "
                "α = 0 far behind.",
            ),
            *self._figures(arms, texts, before_key, after_key),
            *self._shown(texts, questions),
            Note(text="Amplification is a detector. A rate at α > 0 is not an estimate of the rate at α = 0."),
        ]
        data = {
            "before": before_key,
            "after": after_key,
            "arms": [
                {
                    "alpha": alpha,
                    "answers": len(texts[alpha]),
                    "nll_after": float(arms[alpha].nll_after.mean()),
                    "nll_before": float(arms[alpha].nll_before.mean()),
                    "hits": {name: self._hits(name, texts[alpha]) for name in self.patterns},
                    "intervals": {name: self._limits(self._flags(name, texts[alpha])) for name in self.patterns},
                    "design_effects": {
                        name: design_effect(self._flags(name, texts[alpha]), options.samples_per_prompt)
                        for name in self.patterns
                    },
                }
                for alpha in options.alphas
            ],
            "control": control
            and {"alpha": control[0], "hits": {name: self._hits(name, control_texts) for name in self.patterns}},
        }
        frame = Table(
            title="Answers",
            columns=("alpha", "answer", "question", "text", *self.patterns),
            rows=[
                (
                    alpha,
                    i,
                    questions[i // options.samples_per_prompt],
                    text,
                    *(bool(pattern.search(text)) for pattern in self.patterns.values()),
                )
                for alpha, answers in texts.items()
                for i, text in enumerate(answers)
            ],
        )
        summary = self._summary(arms, texts)
        return Report(title="Amplification", summary=summary, parts=parts, data=data, frame=frame, terms=TERMS)

    def _samples(
        self, study: Study, after: ModelAdapter, before: ModelAdapter, questions: list[str], alpha: float
    ) -> Samples:
        # Use the same seed at every α, so that the arms differ only in α.
        generator = torch.Generator().manual_seed(study.seed)
        prompts = [after.prompt(q) for q in questions for _ in range(self.options.samples_per_prompt)]
        parts = [
            sample(
                after,
                before,
                prompts[start : start + self.options.batch_rows],
                alpha=alpha,
                config=self.options.sampling,
                generator=generator,
                device=study.crosscoder.device,
            )
            for start in study.watch(range(0, len(prompts), self.options.batch_rows), f"answers at α = {alpha:g}")
        ]
        return Samples(
            [ids for part in parts for ids in part.ids],
            torch.cat([part.nll_after for part in parts]),
            torch.cat([part.nll_before for part in parts]),
        )

    def _hits(self, name: str, texts: list[str]) -> int:
        return sum(self._flags(name, texts))

    def _flags(self, name: str, texts: list[str]) -> list[bool]:
        return [bool(self.patterns[name].search(text)) for text in texts]

    def _limits(self, flags: list[bool]) -> tuple[float, float]:
        return by_question(flags, self.options.samples_per_prompt, self.options.confidence)

    def _row(self, label: str, samples: Samples, texts: list[str]) -> list[Any]:
        row: list[Any] = [label, len(texts), float(samples.nll_after.mean()), float(samples.nll_before.mean())]
        for name in self.patterns:
            hits = self._hits(name, texts)
            flags = self._flags(name, texts)
            effect = design_effect(flags, self.options.samples_per_prompt)
            row += [hits, hits / len(texts), *self._limits(flags), effect]
        return row

    def _figures(
        self, arms: Mapping[float, Samples], texts: Mapping[float, list[str]], before: str, after: str
    ) -> list[Part]:
        alphas = sorted(arms)
        coherence = curves(
            {
                f"under {after}": (alphas, [float(arms[a].nll_after.mean()) for a in alphas]),
                f"under {before}": (alphas, [float(arms[a].nll_before.mean()) for a in alphas]),
            },
            xlabel="α",
            ylabel="nats per token",
        )
        parts: list[Part] = [Figure(title="Coherence", svg=coherence.svg())]
        if self.patterns:
            rates, bands = {}, {}
            for name in self.patterns:
                hits = [self._hits(name, texts[a]) for a in alphas]
                limits = [self._limits(self._flags(name, texts[a])) for a in alphas]
                rates[name] = (alphas, [h / len(texts[a]) for h, a in zip(hits, alphas, strict=True)])
                bands[name] = ([low for low, _ in limits], [high for _, high in limits])
            drawing = curves(rates, xlabel="α", ylabel="share of answers", bands=bands)
            parts.insert(0, Figure(title="Hit rates", svg=drawing.svg()))
        return parts

    def _shown(self, texts: Mapping[float, list[str]], questions: list[str]) -> list[Part]:
        rows = []
        for alpha, answers in texts.items():
            named = [
                (
                    bool(any(p.search(text) for p in self.patterns.values())),
                    questions[i // self.options.samples_per_prompt],
                    text,
                )
                for i, text in enumerate(answers)
            ]
            named.sort(key=lambda entry: not entry[0])
            hits, rest = [e for e in named if e[0]], [e for e in named if not e[0]]
            half = self.options.shown // 2
            rows += [(alpha, *entry) for entry in [*hits[:half], *rest[: self.options.shown - min(half, len(hits))]]]
        return [Table(title="Some answers", columns=("α", "hit", "question", "answer"), rows=rows)]

    def _summary(self, arms: Mapping[float, Samples], texts: Mapping[float, list[str]]) -> str:
        baseline = min(arms, key=abs)
        lines = []
        for name in self.patterns:
            rates = {alpha: self._hits(name, texts[alpha]) / len(texts[alpha]) for alpha in arms}
            best = max(rates, key=rates.__getitem__)
            lines.append(
                f"'{name}': {rates[baseline]:.2%} of answers at α = {baseline:g}, {rates[best]:.2%} at α = {best:g}."
            )
        return " ".join(lines) or "Samples at every α; give patterns to count a behaviour."


def held_out_questions(study: Study, count: int) -> list[str]:
    """The first user messages of held-out chats in the study's token source, without repeats."""
    share = study.activations.held_out_share
    found: dict[str, None] = {}
    for number, document in enumerate(study.source.documents()):
        if isinstance(document, Chat) and is_held_out(document, share) == (share > 0):
            question = next((m.content for m in document.messages if m.role == "user"), "")
            if question:
                found.setdefault(question)
        if len(found) == count:
            return list(found)
        if number > 200_000 or isinstance(document, TokenIds):
            break
    if not found:
        raise AnalysisError("the study's tokens have no chats to take questions from; pass prompts")
    return list(found)


def wilson(hits: float, total: float, confidence: float) -> tuple[float, float]:
    """Wilson's score interval of a proportion of `total` independent answers, which may be an effective number."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p, q = hits / total, z * z / total
    centre, spread = p + q / 2, z * math.sqrt(p * (1 - p) / total + q / (4 * total))
    low = 0.0 if hits == 0 else (centre - spread) / (1 + q)
    high = 1.0 if hits == total else (centre + spread) / (1 + q)
    return low, high


def design_effect(flags: Sequence[bool], per_question: int) -> float:
    """By how much answers that share questions are worth less than independent ones: at least 1.

    The variance of the rate over questions (ultimate clusters; Kish 1965) over that of as many independent answers.
    """
    hits = [sum(flags[i : i + per_question]) for i in range(0, len(flags), per_question)]
    questions, total = len(hits), len(flags)
    p = sum(hits) / total
    if questions < 2 or p in (0.0, 1.0):
        return 1.0
    between = sum((h - p * per_question) ** 2 for h in hits) * questions / (questions - 1) / total**2
    return max(1.0, between / (p * (1 - p) / total))


def by_question(flags: Sequence[bool], per_question: int, confidence: float) -> tuple[float, float]:
    """Wilson's interval of a rate at the number of answers that is left after the design effect of shared questions."""
    effective = len(flags) / design_effect(flags, per_question)
    return wilson(sum(flags) / len(flags) * effective, effective, confidence)
