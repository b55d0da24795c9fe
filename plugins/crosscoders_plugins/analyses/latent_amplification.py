"""Which latents carry a behaviour that amplification brings out, and do they bring it out by themselves?

1. Answers by amplified logits (`amplification`) show the behaviour.
2. They are read again with one latent after another taken out of the model after fine-tuning, x^after − f_j
   (d_j^after − d_j^before): what the log odds of the behaviour's tokens lose is what the latent contributes.
   Two latents may take away the same, so those that carry it together are then chosen one after another, each beside
   those already taken out.
3. *Needed*: questions are answered again by amplified logits, these latents taken out; as many others at random; and
   all of them, which shows whether the behaviour passes through this crosscoder.
4. *Enough*: questions are answered by the model after fine-tuning with only these latents amplified,
   x^after + α Σ_{j∈S} f_j (d_j^after − d_j^before).
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from attrs import field, frozen
from attrs.validators import and_, ge, gt, lt, min_len

from crosscoders import AnalysisError, Decoder, Figure, Note, Part, Report, Study, Table
from crosscoders.authoring import Amplified, Patching, language_model
from crosscoders.reports.figures import curves

from .answers import by_question, compiled, held_out_questions
from .attribution import Reading, answer_with
from .sampling import SamplingConfig, sample

FRAME = ("behaviour", "latent", "contribution", "joint_contribution")

TERMS = {
    "alone": "By how many nats the log odds of the behaviour's words fall when this latent is taken out: 2.3 is a "
    "tenth of the odds.",
    "beside those above": "The same where the latents of the rows above are out already.",
    "α": "The strength of amplification: at 0 the model as it is, above 0 what fine-tuning changed is exaggerated.",
}


@frozen(kw_only=True)
class LatentAmplificationConfig:
    """Which behaviours are attributed to latents, and how strongly logits and latents are amplified."""

    before: str = ""
    """Key of the model before fine-tuning; empty takes the model of the first site."""
    after: str = ""
    """Key of the model after fine-tuning; empty takes the model of the last site."""
    patterns: Mapping[str, str] = field(factory=dict)
    """Regular expressions by name: the behaviours."""
    latents: Mapping[str, tuple[int, ...]] = field(factory=dict)
    """Latents of a behaviour, by its name, that are taken as they are instead of being looked for."""
    logit_alpha: float = 1.0
    """Strength with which logits are amplified to find the behaviours; 0 does not amplify."""
    alphas: tuple[float, ...] = field(default=(0.0, 1.0, 2.0, 4.0, 8.0), validator=min_len(1))
    """Strengths with which the latents are amplified."""
    prompts: tuple[str, ...] = ()
    """The questions to answer; empty takes held-out questions of the study's tokens."""
    num_prompts: int = field(default=50, validator=gt(0))
    """Number of held-out questions to take if `prompts` is empty."""
    samples_per_prompt: int = field(default=4, validator=gt(0))
    """Number of answers to each question."""
    sampling: SamplingConfig = field(factory=SamplingConfig)
    """How tokens are sampled."""
    candidates: int = field(default=256, validator=ge(1))
    """Number of latents that are taken out one by one: those that do most otherwise before the behaviour."""
    read: int = field(default=32, validator=ge(1))
    """Number of answers with a behaviour that are read again."""
    lead: int = field(default=8, validator=ge(0))
    """Tokens of an answer before the match that count as the behaviour too, since what decides may come before."""
    named: int = field(default=16, validator=ge(1))
    """Number of latents that are chosen to be taken out together."""
    tried: int = field(default=32, validator=ge(1))
    """Number of latents that are tried for each of these places: those that promised most when last tried."""
    strongest: int = field(default=4, validator=ge(1))
    """Number of them that are amplified by themselves; many at once break the text."""
    batch_rows: int = field(default=200, validator=gt(0))
    """Number of answers generated in one batch."""
    confidence: float = field(default=0.95, validator=and_(gt(0.0), lt(1.0)))
    """Of the intervals of rates, by question."""

    def __attrs_post_init__(self) -> None:
        for name, pattern in self.patterns.items():
            compiled(name, pattern)
        unknown = set(self.latents) - set(self.patterns)
        if unknown:
            raise AnalysisError(f"latents are given for '{unknown.pop()}', which has no pattern")


@frozen
class _Model:
    """A model, changed by the crosscoder's latents or not, as `sample` takes it."""

    decoders: Any
    ends: frozenset[int]

    def decoder(self) -> Decoder:
        found: Decoder = self.decoders.decoder()
        return found

    def end_tokens(self) -> frozenset[int]:
        return self.ends


@frozen(eq=False)
class Rate:
    """How many answers have a behaviour."""

    hits: int
    answers: int
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.hits / self.answers:.1%}"

    @property
    def row(self) -> tuple[int, int, float, float, float]:
        """As columns of a table."""
        return self.answers, self.hits, self.hits / self.answers, self.low, self.high


class LatentAmplification:
    """Analysis `latent_amplification`."""

    def __init__(self, options: LatentAmplificationConfig) -> None:
        self.options = options
        self.patterns = {name: compiled(name, pattern) for name, pattern in options.patterns.items()}

    @torch.no_grad()
    def run(self, study: Study) -> Report:
        """Report for each behaviour the latents that carry it, and rates with them taken out and amplified."""
        options, sites = self.options, study.crosscoder.sites
        if not self.patterns:
            raise AnalysisError("no behaviour to attribute: give patterns, regular expressions by name")
        patching = Patching.of(study, options.after or sites[-1].model, options.before or sites[0].model)
        questions = list(options.prompts) or held_out_questions(study, options.num_prompts)
        model = language_model(study.adapter(patching.source), "latent amplification")
        asked = [model.prompt(q) for q in questions for _ in range(options.samples_per_prompt)]
        plain = self._answers(patching, asked, logit_alpha=0.0)
        shown = self._answers(patching, asked, logit_alpha=options.logit_alpha) if options.logit_alpha else plain

        def without(latents: Sequence[int]) -> list[list[int]]:
            alpha = options.logit_alpha
            return self._answers(patching, asked, logit_alpha=alpha, latents=latents, latent_alpha=-1.0)

        none = without(range(study.crosscoder.num_latents))
        behaviours = {}
        for name, pattern in self.patterns.items():
            numbers: dict[str, Any] = {"plain": self._rate(patching, pattern, plain)}
            numbers["amplified_logits"] = self._rate(patching, pattern, shown)
            numbers["without_all"] = self._rate(patching, pattern, none)
            numbers |= self._carried(study, patching, name, asked, shown)
            latents = numbers["latents"][: options.named]
            if latents:
                numbers["without"] = self._rate(patching, pattern, without(latents))
                others = self._others(study.seed, numbers["latents"], len(latents))
                if others:
                    numbers["random"] = others
                    numbers["without_random"] = self._rate(patching, pattern, without(others))
                numbers["amplified_latents"] = {
                    alpha: self._rate(
                        patching,
                        pattern,
                        self._answers(patching, asked, latents=latents[: options.strongest], latent_alpha=alpha),
                    )
                    for alpha in options.alphas
                }
            behaviours[name] = numbers
        return self._report(patching, behaviours)

    def _answers(
        self,
        patching: Patching,
        asked: Sequence[Sequence[int]],
        *,
        logit_alpha: float = 0.0,
        latents: Sequence[int] = (),
        latent_alpha: float = 0.0,
    ) -> list[list[int]]:
        """Token ids of the answers to every prompt, with logits and some latents amplified or not."""
        study, rows = patching.study, self.options.batch_rows
        models = (study.adapter(key) for key in (patching.source, patching.target))
        after, before = (language_model(model, "latent amplification") for model in models)
        acting = Amplified(patching, latent_alpha, list(latents)) if latents and latent_alpha else after
        changed = _Model(acting, after.end_tokens())
        found: list[list[int]] = []
        # The same seed for every arm, so that they differ in what is amplified alone.
        generator = torch.Generator().manual_seed(study.seed)
        for start in range(0, len(asked), rows):
            found += sample(
                changed,
                before if logit_alpha else changed,
                asked[start : start + rows],
                alpha=logit_alpha,
                config=self.options.sampling,
                generator=generator,
                device=study.crosscoder.device,
            ).ids
        return found

    def _rate(self, patching: Patching, pattern: re.Pattern[str], answers: Sequence[Sequence[int]]) -> Rate:
        adapter = language_model(patching.study.adapter(patching.source), "latent amplification")
        flags = [pattern.search(adapter.text(ids)) is not None for ids in answers]
        limits = by_question(flags, self.options.samples_per_prompt, self.options.confidence)
        return Rate(sum(flags), len(flags), *limits)

    def _carried(
        self, study: Study, patching: Patching, name: str, asked: Sequence[Sequence[int]], answers: Sequence[list[int]]
    ) -> dict[str, Any]:
        """The latents that carry a behaviour, most first, none where it never came up."""
        options, adapter, pattern = self.options, study.adapter(patching.source), self.patterns[name]
        found = [
            answer
            for prompt, ids in zip(asked, answers, strict=True)
            if (answer := answer_with(adapter, pattern, prompt, ids, lead=options.lead)) is not None
        ][: options.read]
        given = list(options.latents.get(name, ()))
        if not found:
            unknown = [None] * len(given)
            return {"read": 0, "latents": given, "contribution": unknown, "joint_contribution": unknown}
        reading = Reading.of(patching, options.logit_alpha, found)
        candidates = given or reading.candidates(options.candidates)
        whole = reading.log_odds()
        loss = {j: whole - reading.log_odds([j]) for j in study.watch(candidates, f"latents of '{name}'")}
        joint = {} if given else reading.jointly(loss, options.named, options.tried)
        ranked = given or [*joint, *sorted(set(candidates) - set(joint), key=lambda j: (-loss[j], j))]
        return {
            "read": len(found),
            "log_odds": whole,
            "log_odds_without": reading.log_odds(ranked[: options.named]),
            "latents": ranked,
            "contribution": [loss[j] for j in ranked],
            "joint_contribution": [joint.get(j) for j in ranked],
        }

    def _others(self, seed: int, ranked: Sequence[int], count: int) -> list[int]:
        """As many of the other candidates, at random, to hold the chosen ones against."""
        rest = sorted(ranked[count:])
        return random.Random(seed).sample(rest, min(count, len(rest)))

    def _report(self, patching: Patching, behaviours: Mapping[str, dict[str, Any]]) -> Report:
        options, rows, parts, lines = self.options, [], list[Part](), []
        for name, found in behaviours.items():
            named = ", ".join(map(str, found["latents"][: options.strongest]))
            rows.append((name, "plain", *found["plain"].row))
            rows.append((name, f"logits amplified, α = {options.logit_alpha:g}", *found["amplified_logits"].row))
            if "without" not in found:
                lines.append(f"'{name}' did not come up, so there is nothing to attribute.")
                continue
            count, few = len(found["latents"][: options.named]), len(found["latents"][: options.strongest])
            rows.append((name, f"the same without {count} latents", *found["without"].row))
            against = ""
            if "without_random" in found:
                number = len(found["random"])
                rows.append((name, f"the same without {number} others", *found["without_random"].row))
                against = f" (without {number} others in {found['without_random']})"
            rows.append((name, "the same without any latent", *found["without_all"].row))
            levels = found["amplified_latents"]
            rows += [
                (name, f"only {few} latents amplified, α = {alpha:g}", *rate.row) for alpha, rate in levels.items()
            ]
            best = max(levels, key=lambda alpha: levels[alpha].hits / levels[alpha].answers)
            enough = f"it rises from {found['plain']} to {levels[best]} (α = {best:g})"
            if levels[best].low <= found["plain"].hits / found["plain"].answers:
                enough = "it does not surely rise"
            lines.append(
                f"'{name}': latents {named} contribute most. With amplified logits it comes up in "
                f"{found['amplified_logits']} of answers, without the first {count} latents in {found['without']}"
                f"{against}, without any in {found['without_all']}; with only the first {few} amplified {enough}."
            )
            if found["read"]:
                parts.append(
                    Table(
                        title=f"Latents that carry '{name}'",
                        columns=("latent", "alone", "beside those above"),
                        rows=list(_contributions(found))[:count],
                        note="By how much the log odds of the behaviour's own tokens by amplified logits fall without "
                        f"the latent, in nats, over {found['read']} answers: they are {found['log_odds']:.2f}, and "
                        f"{found['log_odds_without']:.2f} without the first {count}.",
                    )
                )
        rates = Table(
            title="Rates",
            columns=("behaviour", "answers by", "answers", "hits", "rate", "low", "high"),
            rows=rows,
            note=f"Intervals at {options.confidence:.0%}, by question.",
        )
        drawn = {name: found["amplified_latents"] for name, found in behaviours.items() if "amplified_latents" in found}
        if drawn:
            alphas = sorted(options.alphas)
            drawing = curves(
                {
                    name: (alphas, [levels[a].hits / levels[a].answers for a in alphas])
                    for name, levels in drawn.items()
                },
                xlabel="α of the behaviour's latents",
                ylabel="share of answers",
                bands={
                    name: ([levels[a].low for a in alphas], [levels[a].high for a in alphas])
                    for name, levels in drawn.items()
                },
            )
            parts.insert(0, Figure(title="Only the behaviour's latents amplified", svg=drawing.svg()))
        parts.append(
            Note(
                text="Latents are needed where the rate falls without them, and enough where it rises with them alone. "
                "A behaviour can be spread over many latents, or pass by the sites of this crosscoder."
            )
        )
        frame_rows = [(name, *row) for name, found in behaviours.items() for row in _contributions(found)]
        return Report(
            terms=TERMS,
            title="Latent amplification",
            summary=" ".join(lines),
            parts=[rates, *parts],
            data={
                "before": patching.target,
                "after": patching.source,
                "points": list(patching.points),
                "logit_alpha": options.logit_alpha,
                "behaviours": {name: _plain(found) for name, found in behaviours.items()},
            },
            frame=Table(title="Contributions", columns=FRAME, rows=frame_rows) if frame_rows else None,
        )


def _contributions(found: Mapping[str, Any]) -> Iterator[tuple[int, float | None, float | None]]:
    """Each latent with what is lost without it alone, and beside those chosen before it."""
    return zip(found["latents"], found["contribution"], found["joint_contribution"], strict=True)


def _plain(value: Any) -> Any:
    """As JSON data."""
    if isinstance(value, Rate):
        return {"answers": value.answers, "hits": value.hits, "interval": [value.low, value.high]}
    if isinstance(value, dict):
        return {f"{key:g}" if isinstance(key, float) else key: _plain(item) for key, item in value.items()}
    return value
