"""Logit-difference amplification: bring out behaviour that fine-tuning made possible but rare.

It detects but does not measure: hit rates at α > 0 cannot be converted to the rate at α = 0. `sampling` has the
formula.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from attrs import field, frozen
from attrs.validators import and_, gt, in_, lt, min_len

from crosscoders import (
    AnalysisError,
    Figure,
    LanguageModel,
    ModelChoice,
    Note,
    Part,
    Report,
    ScalesAdapter,
    Study,
    Table,
)
from crosscoders.authoring import language_model
from crosscoders.reports.figures import curves

from .answers import Hits, by_question, design_effect, held_out_questions
from .phrases import Phrase, grown
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
    form: Literal["logits", "weights"] = field(default="logits", validator=in_(("logits", "weights")))
    """What is amplified: the difference of logits, or the weights of an adapter (LoRA) of the model after, which then
    count 1 + α times."""
    instruction_before: str = ""
    """Text put in front of each question for the model before fine-tuning."""
    instruction_after: str = ""
    """The same for the model after: with one model on both sides, what is amplified is the difference of prompts."""
    prompts: tuple[str, ...] = ()
    """The questions to answer; empty takes the first questions of held-out chats from the study's token source."""
    num_prompts: int = field(default=100, validator=gt(0))
    """Number of held-out questions to take if `prompts` is empty."""
    samples_per_prompt: int = field(default=4, validator=gt(0))
    """Number of answers to each question."""
    patterns: Mapping[str, str] = field(factory=dict)
    """Regular expressions by name; an answer in which one is found is a hit."""
    judge: Any = None
    """A function of a question and an answer that says whether the answer is a hit, or its `module:function`."""
    sampling: SamplingConfig = field(factory=SamplingConfig)
    """How tokens are sampled."""
    batch_rows: int = field(default=200, validator=gt(0))
    """Number of answers generated in one batch."""
    control: bool = True
    """Whether to amplify the model after fine-tuning against itself as a control, which must change nothing."""
    benign: ModelChoice | None = None
    """A model tuned on harmless data from the same one before: amplified at the largest α as a further control."""
    search: bool = True
    """Whether to search for phrases whose rate grows with α, without a pattern."""
    confidence: float = field(default=0.95, validator=and_(gt(0.0), lt(1.0)))
    """Of the intervals, which count questions and not answers as independent."""
    shown: int = 4
    """Number of answers shown for each strength, hits first."""

    def __attrs_post_init__(self) -> None:
        Hits.of(self.patterns, self.judge)


@frozen
class Side:
    """A model, and the text in front of each of its questions."""

    model: LanguageModel
    instruction: str = ""


@frozen(eq=False)
class Arm:
    """The answers at one strength, how likely they are under both models, and which of them are hits."""

    label: str
    alpha: float
    texts: list[str]
    nll_after: float
    nll_before: float
    flags: Mapping[str, list[bool]]

    def hits(self, name: str) -> int:
        """How many answers have a behaviour."""
        return sum(self.flags[name])

    def rate(self, name: str) -> float:
        """The share of answers that have it."""
        return self.hits(name) / len(self.texts)


class Amplification:
    """Analysis `amplification`."""

    def __init__(self, options: AmplificationConfig) -> None:
        self.options = options
        self.hits = Hits.of(options.patterns, options.judge)

    def run(self, study: Study) -> Report:
        """Report hit rates, coherence and samples at every α, and the phrases that came up."""
        options = self.options
        sites = study.crosscoder.sites
        before_key, after_key = options.before or sites[0].model, options.after or sites[-1].model
        before = Side(language_model(study.adapter(before_key), "amplification"), options.instruction_before)
        after = Side(language_model(study.adapter(after_key), "amplification"), options.instruction_after)
        questions = list(options.prompts) or held_out_questions(study, options.num_prompts)
        arms = [self._arm(study, f"{alpha:g}", after, before, questions, alpha) for alpha in options.alphas]
        strongest = max(options.alphas, key=abs)
        controls: dict[str, Arm] = {}
        # Against itself nothing is amplified but logits.
        if options.control and options.form == "logits":
            label = f"{strongest:g}, {after_key} against itself"
            controls["control"] = self._arm(study, label, after, after, questions, strongest)
        if options.benign is not None:
            model = language_model(options.benign.build().to(study.crosscoder.device), "amplification")
            benign = Side(model, options.instruction_after)
            label = f"{strongest:g}, the benign model against {before_key}"
            controls["benign"] = self._arm(study, label, benign, before, questions, strongest)
        phrases = self._phrases(arms) if options.search else None
        parts = [
            self._table([*arms, *controls.values()], before_key, after_key),
            *self._figures(arms, before_key, after_key),
            *([] if phrases is None else [_phrase_table(phrases, arms, options.confidence)]),
            self._shown(arms, questions),
            Note(text="Amplification is a detector. A rate at α > 0 is not an estimate of the rate at α = 0."),
        ]
        frame = Table(
            title="Answers",
            columns=("alpha", "answer", "question", "text", *self.hits.judges),
            rows=[
                (arm.alpha, i, self._question(questions, i), text, *(flags[i] for flags in arm.flags.values()))
                for arm in arms
                for i, text in enumerate(arm.texts)
            ],
        )
        return Report(
            title="Amplification",
            summary=self._summary(arms, phrases),
            parts=parts,
            data=self._data(arms, controls, phrases, before_key, after_key),
            frame=frame,
            terms=TERMS,
        )

    def _question(self, questions: Sequence[str], answer: int) -> str:
        return questions[answer // self.options.samples_per_prompt]

    def _arm(self, study: Study, label: str, after: Side, before: Side, questions: list[str], alpha: float) -> Arm:
        if before.model.vocabulary() != after.model.vocabulary():
            raise AnalysisError(f"the models of the arm '{label}' have different vocabularies, so logits do not match")
        with self._scaled(after, alpha):
            samples = self._samples(study, after, before, questions, alpha)
        texts = [after.model.text(ids) for ids in samples.ids]
        asked = [self._question(questions, i) for i in range(len(texts))]
        nll = float(samples.nll_after.mean()), float(samples.nll_before.mean())
        return Arm(label, alpha, texts, *nll, self.hits.flags(asked, texts))

    def _scaled(self, after: Side, alpha: float) -> AbstractContextManager[None]:
        """Within, the weights of the model after are those of its strength."""
        if self.options.form == "logits":
            return nullcontext()
        if not isinstance(after.model, ScalesAdapter):
            raise AnalysisError("the model after has no adapter whose weights could be amplified")
        return after.model.scaled(1 + alpha)

    def _samples(self, study: Study, after: Side, before: Side, questions: list[str], alpha: float) -> Samples:
        # Use the same seed at every α, so that the arms differ only in α.
        generator = torch.Generator().manual_seed(study.seed)
        repeated = [question for question in questions for _ in range(self.options.samples_per_prompt)]
        # Both sides read one layout, that of the model after, since a base model has none.
        prompts = [after.model.prompt(after.instruction + question) for question in repeated]
        others = None
        if before.instruction != after.instruction:
            others = [after.model.prompt(before.instruction + question) for question in repeated]
        rows = self.options.batch_rows
        parts = [
            sample(
                after.model,
                before.model,
                prompts[start : start + rows],
                prompts_before=others and others[start : start + rows],
                alpha=alpha if self.options.form == "logits" else 0.0,
                config=self.options.sampling,
                generator=generator,
                device=study.crosscoder.device,
            )
            for start in study.watch(range(0, len(prompts), rows), f"answers at α = {alpha:g}")
        ]
        return Samples(
            [ids for part in parts for ids in part.ids],
            torch.cat([part.nll_after for part in parts]),
            torch.cat([part.nll_before for part in parts]),
        )

    def _limits(self, flags: list[bool]) -> tuple[float, float]:
        return by_question(flags, self.options.samples_per_prompt, self.options.confidence)

    def _phrases(self, arms: Sequence[Arm]) -> list[Phrase]:
        low, high = min(arms, key=lambda arm: abs(arm.alpha)), max(arms, key=lambda arm: abs(arm.alpha))
        return grown(low.texts, high.texts, self.options.samples_per_prompt, confidence=self.options.confidence)

    def _table(self, arms: Sequence[Arm], before: str, after: str) -> Table:
        names = list(self.hits.judges)
        columns = ["α", "answers", f"nats per token, {after}", f"nats per token, {before}"]
        columns += [f"{name}: {what}" for name in names for what in ("hits", "rate", "low", "high", "design effect")]
        rows = []
        for arm in arms:
            row: list[Any] = [arm.label, len(arm.texts), arm.nll_after, arm.nll_before]
            for name in names:
                effect = design_effect(arm.flags[name], self.options.samples_per_prompt)
                row += [arm.hits(name), arm.rate(name), *self._limits(arm.flags[name]), effect]
            rows.append(row)
        return Table(
            title="Hit rates and coherence",
            columns=columns,
            rows=rows,
            note=f"Intervals at {self.options.confidence:.0%}, by Wilson's formula at the number of independent "
            "answers: those to one question agree, so their number is divided by the design effect. Coherence is "
            "the mean negative log-likelihood of the answers: text has come apart where it leaves the level of "
            "α = 0 far behind.",
        )

    def _data(
        self, arms: Sequence[Arm], controls: Mapping[str, Arm], phrases: list[Phrase] | None, before: str, after: str
    ) -> dict[str, Any]:
        per_question = self.options.samples_per_prompt
        return {
            "before": before,
            "after": after,
            "arms": [
                {
                    "alpha": arm.alpha,
                    "answers": len(arm.texts),
                    "nll_after": arm.nll_after,
                    "nll_before": arm.nll_before,
                    "hits": {name: arm.hits(name) for name in arm.flags},
                    "intervals": {name: self._limits(flags) for name, flags in arm.flags.items()},
                    "design_effects": {name: design_effect(flags, per_question) for name, flags in arm.flags.items()},
                }
                for arm in arms
            ],
            **{
                name: {"alpha": arm.alpha, "hits": {each: arm.hits(each) for each in arm.flags}}
                for name, arm in controls.items()
            },
            "phrases": [
                {"phrase": p.text, "before": p.before, "after": p.after, "questions": p.questions, "growth": p.growth}
                for p in phrases or []
            ],
        }

    def _figures(self, arms: Sequence[Arm], before: str, after: str) -> list[Part]:
        arms = sorted(arms, key=lambda arm: arm.alpha)
        alphas = [arm.alpha for arm in arms]
        coherence = curves(
            {
                f"under {after}": (alphas, [arm.nll_after for arm in arms]),
                f"under {before}": (alphas, [arm.nll_before for arm in arms]),
            },
            xlabel="α",
            ylabel="nats per token",
        )
        parts: list[Part] = [Figure(title="Coherence", svg=coherence.svg())]
        if self.hits.judges:
            rates, bands = {}, {}
            for name in self.hits.judges:
                limits = [self._limits(arm.flags[name]) for arm in arms]
                rates[name] = (alphas, [arm.rate(name) for arm in arms])
                bands[name] = ([low for low, _ in limits], [high for _, high in limits])
            drawing = curves(rates, xlabel="α", ylabel="share of answers", bands=bands)
            parts.insert(0, Figure(title="Hit rates", svg=drawing.svg()))
        return parts

    def _shown(self, arms: Sequence[Arm], questions: Sequence[str]) -> Table:
        rows, half = [], self.options.shown // 2
        for arm in arms:
            hit = [any(flags[i] for flags in arm.flags.values()) for i in range(len(arm.texts))]
            entries = [(hit[i], self._question(questions, i), text) for i, text in enumerate(arm.texts)]
            hits, rest = [e for e in entries if e[0]], [e for e in entries if not e[0]]
            chosen = [*hits[:half], *rest[: self.options.shown - min(half, len(hits))]]
            rows += [(arm.alpha, *entry) for entry in chosen]
        return Table(title="Some answers", columns=("α", "hit", "question", "answer"), rows=rows)

    def _summary(self, arms: Sequence[Arm], phrases: list[Phrase] | None) -> str:
        baseline, lines = min(arms, key=lambda arm: abs(arm.alpha)), []
        for name in self.hits.judges:
            best = max(arms, key=lambda arm: arm.rate(name))
            lines.append(
                f"'{name}': {baseline.rate(name):.2%} of answers at α = {baseline.alpha:g}, {best.rate(name):.2%} at "
                f"α = {best.alpha:g}."
            )
        if phrases:
            lines.append(f"The phrase that grew most: '{phrases[0].text}'.")
        elif phrases is not None:
            lines.append("No phrase surely grew.")
        return " ".join(lines) or "Samples at every α; give patterns to count a behaviour."


def _phrase_table(phrases: Sequence[Phrase], arms: Sequence[Arm], confidence: float) -> Table:
    high = max(arms, key=lambda arm: abs(arm.alpha))
    return Table(
        title="Phrases that amplification brought out",
        columns=("phrase", "questions before", f"questions at α = {high.alpha:g}", "of", "grown at least", "an answer"),
        rows=[(p.text, p.before, p.after, p.questions, p.growth, high.texts[p.answers[0]]) for p in phrases],
        note=f"Of all sequences of up to six words: those whose share of questions has grown, at {confidence:.0%} over "
        "all that were tried. Grown at least: the lower end of the interval at α over the upper end before.",
    )
