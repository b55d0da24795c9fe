"""Automatic interpretation: a language model of the user's explains latents, and its explanations are scored.

The model is any function from a prompt to an answer; nothing is contacted unless it does so. An explanation is made
from marked contexts and scored on others (Paulo et al. 2024): *detection*, does a context contain what is explained,
against contexts where the latent is silent, half of them hard (its nearest latent is active there); *fuzzing*, are the
right tokens marked. Scores are balanced accuracy and the area under the ROC curve (AUC); 0.5 is chance.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from attrs import asdict, field, frozen
from attrs.validators import ge, gt

from crosscoders import AnalysisError, Example, Examples, Note, Part, Report, Study, Table
from crosscoders.authoring import activity, write_explanations

from .answers import loaded
from .windows import Sampled, Window, sampled

EXPLAIN = """Below are pieces of text. Tokens on which a feature of a language model is active stand between « and ».
Say in one short sentence what the feature responds to. Do not repeat these instructions.

{contexts}

The feature responds to:"""

DETECT = """A feature of a language model responds to: {explanation}

For each of the numbered texts say how likely it is, from 0 to 100, that the text contains what the feature responds to.
Answer with one line for each text, as "number: likelihood".

{contexts}
"""

FUZZ = """A feature of a language model responds to: {explanation}

In each of the numbered texts some tokens stand between « and ». Say how likely it is, from 0 to 100, that these are the
tokens that the feature responds to. Answer with one line for each text, as "number: likelihood".

{contexts}
"""


TERMS = {
    "detection": "Whether a model that reads only the explanation can tell texts with the latent from others: 0.5 is "
    "chance.",
    "fuzzing": "Whether it can tell the right tokens from others.",
    "AUC": "The chance that a text with the latent is rated higher than one without.",
}


@frozen(kw_only=True)
class AutointerpConfig:
    """Which latents are explained by which model, and on how many contexts that is done and scored."""

    model: Any = None
    """A function from a prompt to an answer, or its `module:function`."""
    latents: tuple[int, ...] = ()
    """The latents to explain; empty takes some by chance."""
    count: int = field(default=10, validator=gt(0))
    """Number of latents to explain if `latents` is empty."""
    min_firings: int = field(default=32, validator=ge(1))
    """Latents taken by chance are active on at least this many tokens."""
    train: int = field(default=40, validator=ge(2))
    """Contexts that the explanation is made from: a quarter of them the strongest, the others by chance."""
    test: int = field(default=50, validator=ge(4))
    """Contexts that it is scored on, half of them with the latent active."""
    per_call: int = field(default=5, validator=ge(1))
    """Contexts in one question."""
    save: str = ""
    """A further JSON file to write the explanations to, beside `explanations.json` in the crosscoder's own folder."""


@frozen
class Score:
    """How well an explanation tells contexts apart."""

    balanced_accuracy: float
    auc: float
    answered: int
    """Contexts about which the model said something."""
    asked: int


class Autointerp:
    """Analysis `autointerp`."""

    def __init__(self, options: AutointerpConfig) -> None:
        self.options = options

    @torch.no_grad()
    def run(self, study: Study) -> Report:
        """Explain and score each latent."""
        if self.options.model is None:
            raise AnalysisError("no model to explain with: give model, a function from a prompt to an answer")
        model: Callable[[str], str] = loaded(self.options.model)
        latents = list(self.options.latents) or self._drawn(study)
        windows = sampled(study, latents)
        found: dict[int, dict[str, Any]] = {}
        for j in study.watch(latents, "explaining"):
            found[j] = self._one(model, windows[j], random.Random(study.seed * 1_000_003 + j))
        study.explain({j: _plain(each) for j, each in found.items() if each["explanation"]})
        if self.options.save:
            entries = {j: _plain(each) for j, each in found.items()}
            write_explanations(Path(self.options.save), entries, study.crosscoder.written.names)
        return self._report(study, found)

    def _drawn(self, study: Study) -> list[int]:
        firings_F = study.census().firings_F
        live = (firings_F >= self.options.min_firings).nonzero().squeeze(1).tolist()
        if not live:
            raise AnalysisError(f"no latent fires on {self.options.min_firings} tokens of this text")
        return sorted(random.Random(study.seed).sample(live, min(self.options.count, len(live))))

    def _one(self, model: Callable[[str], str], windows: Sampled, draw: random.Random) -> dict[str, Any]:
        """The explanation of one latent and its scores; None where there are too few contexts for them."""
        strongest = sorted(windows.positive, key=lambda w: -w.peak)[: self.options.train // 4]
        others = [w for w in windows.positive if w not in strongest]
        half = self.options.test // 2
        # Contexts to score on come first, since without them an explanation is worth little.
        test, others = others[:half], others[half:]
        train = [*strongest, *others[: self.options.train - len(strongest)]]
        if not train or not test:
            return {"explanation": "", "detection": None, "fuzzing": None}
        contexts = "\n".join(f"{n + 1}: {w.marked()}" for n, w in enumerate(train))
        explanation = model(EXPLAIN.format(contexts=contexts)).strip()
        hard = windows.hard[: half // 2]
        negative = [*hard, *windows.negative[: half - len(hard)]]
        asked = [(w.text, True) for w in test] + [(w.text, False) for w in negative]
        fuzzed = [(w.marked(), True) for w in test] + [(w.marked(_elsewhere(w, draw)), False) for w in test]
        return {
            "explanation": explanation,
            "detection": self._score(model, DETECT, explanation, asked, draw),
            "fuzzing": self._score(model, FUZZ, explanation, fuzzed, draw),
        }

    def _score(
        self,
        model: Callable[[str], str],
        template: str,
        explanation: str,
        asked: Sequence[tuple[str, bool]],
        draw: random.Random,
    ) -> Score | None:
        asked = list(asked)
        draw.shuffle(asked)
        said: list[tuple[float, bool]] = []
        for start in range(0, len(asked), self.options.per_call):
            part = asked[start : start + self.options.per_call]
            contexts = "\n".join(f"{n + 1}: {text}" for n, (text, _) in enumerate(part))
            answer = likelihoods(model(template.format(explanation=explanation, contexts=contexts)), len(part))
            said += [(value, truth) for value, (_, truth) in zip(answer, part, strict=True) if value is not None]
        return score_of(said, len(asked))

    def _report(self, study: Study, found: dict[int, dict[str, Any]]) -> Report:
        rows = [
            (j, each["explanation"], *(getattr(each[kind], name, None) for kind in ("detection", "fuzzing")
                                       for name in ("balanced_accuracy", "auc")))
            for j, each in found.items()
        ]  # fmt: skip
        columns = ("latent", "explanation", "detection", "detection AUC", "fuzzing", "fuzzing AUC")
        table = Table(
            title="Explanations",
            columns=columns,
            rows=rows,
            note="Detection and fuzzing: balanced accuracy; 0.5 is chance. Half of the contexts without the latent are "
            "hard: its nearest latent is active there.",
        )
        seen = activity(study, list(found), per_latent=4)
        parts: list[Part] = [
            table,
            Examples(
                title="What they respond to",
                entries=[
                    Example(heading=f"latent {j}", note=each["explanation"], contexts=seen.contexts[j])
                    for j, each in found.items()
                ],
            ),
            Note(text="An explanation that detects well may still be too wide or too narrow; see where it fails."),
        ]
        scores = [each["detection"].balanced_accuracy for each in found.values() if each["detection"]]
        mean = f"; mean detection {sum(scores) / len(scores):.2f}" if scores else ""
        return Report(
            terms=TERMS,
            title="Automatic interpretation",
            summary=f"{sum(bool(each['explanation']) for each in found.values())} latents explained{mean}.",
            parts=parts,
            data={"latents": {str(j): _plain(each) for j, each in found.items()}},
            frame=Table(title="Latents", columns=columns, rows=rows),
        )


def _plain(found: dict[str, Any]) -> dict[str, Any]:
    return {name: asdict(value) if isinstance(value, Score) else value for name, value in found.items()}


def _elsewhere(window: Window, draw: random.Random) -> list[bool]:
    """As many marks as the latent has, on other tokens."""
    silent = [i for i, value in enumerate(window.values) if value <= 0]
    marks = set(draw.sample(silent, min(len(silent), len(window.values) - len(silent))))
    return [i in marks for i in range(len(window.values))]


def likelihoods(answer: str, count: int) -> list[float | None]:
    """Numbers from 0 to 1 by line `number: likelihood`; None for what the answer leaves out."""
    found: list[float | None] = [None] * count
    for number, value in re.findall(r"^\W*(\d+)\W+(\d+(?:\.\d+)?)", answer, flags=re.MULTILINE):
        if 1 <= int(number) <= count and 0 <= float(value) <= 100:
            found[int(number) - 1] = float(value) / 100
    return found


def score_of(said: Sequence[tuple[float, bool]], asked: int) -> Score | None:
    """Balanced accuracy at ½ and AUC, ties counted half; None where only one kind of context was answered."""
    yes, no = ([value for value, truth in said if truth is kind] for kind in (True, False))
    if not yes or not no:
        return None
    accuracy = (sum(v >= 0.5 for v in yes) / len(yes) + sum(v < 0.5 for v in no) / len(no)) / 2
    wins = sum((a > b) + 0.5 * (a == b) for a in yes for b in no)
    return Score(accuracy, wins / (len(yes) * len(no)), len(said), asked)
