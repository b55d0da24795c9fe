"""Behaviours: which latents carry what a regular expression describes, and what the model loses without them.

A match's tokens, and the one before, which predicts its first word, are *there*. Of each latent: the share of matches
with a token on which it is active (recall), and the share of its summed activation that is there (precision). The best
by their harmonic mean carry the behaviour. A model has many latents for one behaviour and gets by without a few, so
some tens of the best are ablated together: how much less does it then expect the words of the match, and other words?
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from attrs import asdict, field, frozen
from attrs.validators import ge, min_len
from torch import Tensor

from crosscoders import AnalysisError, ConfigError, Example, Examples, Part, Report, Study, Table
from crosscoders.authoring import activity, language_model, precise

from .places import Places, Spot

TERMS = {
    "loss": "−log p of the token that comes next, in nats: 0 where the model was certain of it, 2.3 where it gave it "
    "one chance in ten, 9.2 where one in ten thousand.",
    "ablate": "Set a latent to 0: what it writes is taken out of the model's activations, everything else stays.",
}


@frozen(kw_only=True)
class BehavioursConfig:
    """What to look for, and in which model."""

    patterns: Mapping[str, str] = field(validator=min_len(1))
    """Regular expressions by name, each for the text of one behaviour."""
    model: str = ""
    """Key of the model whose behaviour it is; empty takes the model of the last written site."""
    before: str = ""
    """Key of a model to compare with, which is asked how much it expects the same words; empty: none."""
    top: int = field(default=5, validator=ge(1))
    """Number of latents of each behaviour, the best ones, that are shown with examples."""
    ablated: int = field(default=30, validator=ge(1))
    """Number of latents of each behaviour, the best ones, that are ablated together."""
    documents: int = field(default=24, validator=ge(1))
    """Number of documents with a match on which the model is run with these latents ablated."""
    examples: int = field(default=3, validator=ge(1))
    """Number of contexts shown of each of these latents."""

    def __attrs_post_init__(self) -> None:
        for name, pattern in self.patterns.items():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ConfigError(f"the pattern '{name}' is not a regular expression: {error}") from error


@frozen
class Carrier:
    """A latent, and how well it goes with a behaviour."""

    latent: int
    recall: float
    """Share of the matches with a token on which it is active."""
    precision: float
    """Share of its summed activation that is at matches."""
    firings: int
    """Tokens on which it is active."""


@frozen
class Loss:
    """Mean −log p of the words of the matches, nats per token; None where the model has no such loss."""

    clean: float | None = None
    ablated: float | None = None
    elsewhere: float | None = None
    """By how much it rises on the other tokens of the same documents."""
    before: float | None = None
    """That of the model to compare with."""


class Behaviours:
    """Analysis `behaviours`."""

    def __init__(self, options: BehavioursConfig) -> None:
        self.options = options

    @torch.no_grad()
    def run(self, study: Study) -> Report:
        """Report the latents that carry each behaviour, with examples and what their ablation does."""
        options, crosscoder = self.options, study.crosscoder
        model = options.model or crosscoder.written.sites[-1].model
        for key in filter(None, (model, options.before)):
            study.adapter(key)
        places = Places(study, {name: re.compile(pattern) for name, pattern in options.patterns.items()})
        carriers = {name: self._carriers(places, name) for name in options.patterns}
        losses = {
            name: self._losses(study, model, [each.latent for each in found[: options.ablated]], places.spots[name])
            for name, found in carriers.items()
        }
        shown = {name: found[: options.top] for name, found in carriers.items()}
        pool = sorted({each.latent for found in shown.values() for each in found})
        contexts = activity(study, pool, per_latent=options.examples).contexts
        parts: list[Part] = [_carrier_table(places, shown), self._loss_table(losses, model)]
        parts += [
            Examples(
                title=f"Where the latents of '{name}' are most active",
                entries=[Example(heading=f"latent {each.latent}", contexts=contexts[each.latent]) for each in found],
            )
            for name, found in shown.items()
            if found
        ]
        said = [self._said(name, places.count(name), carriers[name], losses[name], model) for name in options.patterns]
        data = {
            "model": model,
            "num_tokens": places.num_tokens,
            "said": dict(zip(options.patterns, said, strict=True)),
            "matches": {name: places.count(name) for name in options.patterns},
            "latents": {name: [each.latent for each in found] for name, found in carriers.items()},
            "recall": {name: [each.recall for each in found] for name, found in carriers.items()},
            "precision": {name: [each.precision for each in found] for name, found in carriers.items()},
            "loss": {name: asdict(loss) for name, loss in losses.items()},
        }
        frame = _carrier_table(places, carriers)
        summary = "; ".join(_in_short(name, places.count(name), found) for name, found in carriers.items())
        return Report(title="Behaviours", summary=f"{summary}.", parts=parts, data=data, frame=frame, terms=TERMS)

    def _carriers(self, places: Places, name: str) -> list[Carrier]:
        """The latents that go best with the matches, as many as are shown or ablated; none where there is no match."""
        recall_F, precision_F = places.recall(name), places.precision(name)
        fit_F = 2 * recall_F * precision_F / (recall_F + precision_F).clamp_min(1e-12)
        best = fit_F.argsort(descending=True, stable=True)[: max(self.options.top, self.options.ablated)].tolist()
        return [
            Carrier(j, float(recall_F[j]), float(precision_F[j]), int(places.firings_F[j]))
            for j in best
            if fit_F[j] > 0
        ]

    def _losses(self, study: Study, model: str, latents: list[int], spots: list[Spot]) -> Loss:
        """Of some documents with a match; empty where there is none, or the model cannot be asked."""
        chosen = spots[: self.options.documents]
        if not chosen or not latents:
            return Loss()
        clean, ablated, elsewhere = _loss(study, model, latents, chosen)
        before = _loss(study, self.options.before, latents, chosen)[0] if self.options.before else None
        return Loss(clean, ablated, elsewhere, before)

    def _loss_table(self, losses: Mapping[str, Loss], model: str) -> Table:
        columns = ["behaviour", f"{model}: loss on its words", "without its latents", "rise on other words"]
        if self.options.before:
            columns.append(f"{self.options.before}: loss on its words")
        rows = [
            [name, loss.clean, loss.ablated, loss.elsewhere, *([loss.before] if self.options.before else [])]
            for name, loss in losses.items()
        ]
        return Table(
            title="What the model loses without them",
            columns=columns,
            rows=rows,
            note=f"Mean −log p of the next token, nats, with the {self.options.ablated} best latents of each behaviour "
            "ablated together.",
        )

    def _said(self, name: str, matches: int, found: list[Carrier], loss: Loss, model: str) -> str:
        """One behaviour in plain words."""
        if not matches:
            return f"{name}: no place in this text matches."
        if not found:
            return f"{name}: {_places(matches)} in this text, and no latent is active there."
        best = found[0]
        alone = "" if best.precision >= 0.5 else "no latent stands for it alone: "
        text = (
            f"{name}: {_places(matches)} in this text; {alone}latent {best.latent} is active at {best.recall:.0%} of "
            f"them, and {best.precision:.0%} of its activation is there."
        )
        if loss.clean is None or loss.ablated is None or loss.elsewhere is None:
            return text
        if loss.before is not None:
            how = "does not expect" if loss.before > loss.clean + 1 else "expects"
            text += f" {self.options.before} {how} these words: {loss.before:.2f} nats per token"
            text += f", {model} {loss.clean:.2f}."
        count = min(len(found), self.options.ablated)
        return (
            f"{text} Without the {count} latents that go best with them, {model}'s loss on them goes from "
            f"{loss.clean:.2f} to {loss.ablated:.2f}, on other words by {loss.elsewhere:+.2f}."
        )


def _in_short(name: str, matches: int, found: list[Carrier]) -> str:
    if not found:
        return f"{name}: {_places(matches)}, no latent"
    best = found[0]
    return (
        f"{name}: latent {best.latent} (recall {best.recall:.0%}, precision {best.precision:.0%}, {_places(matches)})"
    )


def _places(count: int) -> str:
    return "1 place" if count == 1 else f"{count} places"


def _carrier_table(places: Places, carriers: Mapping[str, list[Carrier]]) -> Table:
    return Table(
        title="Latents that carry each behaviour",
        columns=("behaviour", "matches", "latent", "recall", "precision", "firings"),
        rows=[
            (name, places.count(name), each.latent, each.recall, each.precision, each.firings)
            for name, found in carriers.items()
            for each in found
        ],
        note="Recall: of the places where the text matches, the share where the latent is active. Precision: of all "
        "its activation, the share that is at such places.",
    )


def _loss(
    study: Study, model: str, latents: list[int], spots: list[Spot]
) -> tuple[float | None, float | None, float | None]:
    """Loss on the words of the matches, the same with the latents ablated, and its rise on other words."""
    try:
        one, reading = (language_model(each, "a loss on words") for each in (study.adapter(model), study.reading))
        if one.vocabulary() != reading.vocabulary():
            return None, None, None  # its tokens are others, and so are their places
        effect = study.ablate(latents, [spot.document for spot in spots], model=model)
    except (AnalysisError, ConfigError):  # no text, no next-token logits, or no site of it is written
        return None, None, None
    row_N, next_N = effect.place_N2[:, 0], effect.place_N2[:, 1] + 1
    starts, stops = (torch.tensor([getattr(spot, name) for spot in spots]) for name in ("start", "stop"))
    here_N = (next_N >= starts[row_N]) & (next_N < stops[row_N])
    rise_N = effect.loss_N - effect.loss_clean_N
    return _mean(effect.loss_clean_N[here_N]), _mean(effect.loss_N[here_N]), _mean(rise_N[~here_N])


def _mean(values_N: Tensor) -> float | None:
    """The mean where it is a number."""
    mean = float(precise(values_N).mean()) if len(values_N) else math.nan
    return mean if math.isfinite(mean) else None
