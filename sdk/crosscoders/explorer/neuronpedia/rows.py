"""Records of latents as Neuronpedia's rows, bodies of its API, and features of SAEDashboard."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from attrs import frozen

from ..records import ExampleRecord, LatentRecord, rounded
from .sources import hook_name

NO_BIN = -1.0
"""Bounds of examples that are the strongest, and not drawn from a part of the range."""
NO_TEXT = "\N{REPLACEMENT CHARACTER}"
"""Shown for a token that has no text of its own, which the site does not take."""


@frozen(kw_only=True)
class Place:
    """Where rows of latents go, and what all of them have in common."""

    model_id: str
    source_set: str
    source: str
    """The source's id."""
    creator_id: str
    created: str
    """An ISO time."""
    explained_by: str = ""
    """The name of the kind of explanation, which the site has to know."""
    explaining_model: str = ""


@frozen(kw_only=True, eq=False)
class Described:
    """One latent of a source."""

    record: LatentRecord
    index: int
    """Its number in the source."""
    num_tokens: int
    """Tokens on which firings were counted."""
    texts: Callable[[Sequence[int]], Sequence[str]]
    """The texts of token ids."""
    nearest: Sequence[tuple[int, float]] = ()
    """Others of the same source by the cosine of decoder rows, by their numbers there."""
    vector: Sequence[float] = ()
    """The decoder row at the site whose effects on logits are told; empty to leave it out."""
    explanation: str = ""

    @property
    def site(self) -> str:
        """The last written site with a way to the logits, whose effects are told; empty where there is none."""
        return self.record.logits[-1].site if self.record.logits else ""

    @property
    def density(self) -> float:
        """The share of tokens on which it is active."""
        return self.record.firings / self.num_tokens if self.num_tokens else 0.0

    def effects(self, kind: str) -> list[tuple[str, float]]:
        """The tokens `promoted` or `suppressed`, with the effects."""
        if not self.record.logits:
            return []
        pairs = getattr(self.record.logits[-1], kind)
        return [
            (_text(text), _number(value))
            for text, (_, value) in zip(self.texts([token for token, _ in pairs]), pairs, strict=True)
        ]

    def bins(self) -> tuple[list[float], list[float]]:
        """Heights and middles of the bins of activations; none where it is never active."""
        histogram = self.record.histogram
        if not self.record.firings:
            return [], []
        width = (histogram.high - histogram.low) / len(histogram.counts)
        middles = [_number(histogram.low + (i + 0.5) * width) for i in range(len(histogram.counts))]
        return [float(count) for count in histogram.counts], middles

    def examples(self) -> Iterator[tuple[ExampleRecord, float, float, float]]:
        """Examples with the bounds of the part of the range that they are drawn from, and its share of firings.

        For the strongest, which come first, the upper bound is the largest activation and the others are −1.
        """
        for example in self.record.top:
            yield example, NO_BIN, _number(self.record.histogram.high), NO_BIN
        for part in self.record.ranges:
            for example in part.examples:
                yield example, _number(part.low), _number(part.high), _number(part.share)

    def statistics(self) -> dict[str, Any]:
        """What rows and SAEDashboard's features call alike; what was not measured is an empty list."""
        promoted, suppressed = self.effects("promoted"), self.effects("suppressed")
        heights, middles = self.bins()
        return {
            "neuron_alignment_indices": [],
            "neuron_alignment_values": [],
            "neuron_alignment_l1": [],
            "correlated_neurons_indices": [],
            "correlated_neurons_pearson": [],
            "correlated_neurons_l1": [],
            "correlated_features_indices": [],
            "correlated_features_pearson": [],
            "correlated_features_l1": [],
            "neg_str": [text for text, _ in suppressed],
            "neg_values": [value for _, value in suppressed],
            "pos_str": [text for text, _ in promoted],
            "pos_values": [value for _, value in promoted],
            "frac_nonzero": _number(self.density),
            "freq_hist_data_bar_heights": heights,
            "freq_hist_data_bar_values": middles,
            "logits_hist_data_bar_heights": [],
            "logits_hist_data_bar_values": [],
            "decoder_weights_dist": [],
        }


def feature_row(place: Place, latent: Described) -> dict[str, Any]:
    """The line of a latent in `features/`."""
    largest = _number(latent.record.histogram.high) if latent.record.firings else 0.0
    return {
        "modelId": place.model_id,
        "layer": place.source,
        "index": str(latent.index),
        "sourceSetName": place.source_set,
        "creatorId": place.creator_id,
        "createdAt": place.created,
        "maxActApprox": largest,
        "hasVector": bool(latent.vector),
        "vector": [_number(value) for value in latent.vector],
        "vectorLabel": None,
        "vectorDefaultSteerStrength": largest if latent.vector and largest else 10.0,
        "hookName": hook_name(latent.site) if latent.site else None,
        "topkCosSimIndices": [index for index, _ in latent.nearest],
        "topkCosSimValues": [_number(value) for _, value in latent.nearest],
        **latent.statistics(),
    }


def activation_rows(place: Place, latent: Described) -> Iterator[dict[str, Any]]:
    """The lines of a latent in `activations/`: its strongest examples, then those of parts of its range."""
    for number, (example, low, high, share) in enumerate(latent.examples()):
        tokens, values = _tokens(example), _values(example)
        yield {
            "id": _id(place, "activation", latent.index, number),
            "modelId": place.model_id,
            "layer": place.source,
            "index": str(latent.index),
            "creatorId": place.creator_id,
            "createdAt": place.created,
            "tokens": tokens,
            "values": values,
            "maxValue": max(values),
            "minValue": min(values),
            "maxValueTokenIndex": values.index(max(values)),
            "binMin": low,
            "binMax": high,
            "binContains": share,
            "qualifyingTokenIndex": example.peak,
        }


def explanation_row(place: Place, latent: Described) -> dict[str, Any]:
    """The line of a latent in `explanations/`."""
    return {
        "id": _id(place, "explanation", latent.index, 0),
        "modelId": place.model_id,
        "layer": place.source,
        "index": str(latent.index),
        "description": _text(latent.explanation),
        "authorId": place.creator_id,
        "createdAt": place.created,
        "typeName": place.explained_by or None,
        "explanationModelName": place.explaining_model or None,
    }


def uploaded(place: Place, latent: Described) -> dict[str, Any]:
    """A latent in the body of `POST /api/feature/upload-batch`."""
    activations = []
    for example, low, high, share in latent.examples():
        bounds = {} if low == NO_BIN else {"quantileMin": low, "quantileMax": high, "quantileFraction": share}
        activations.append({"tokens": _tokens(example), "values": _values(example), **bounds})
    found: dict[str, Any] = {
        "index": latent.index,
        "density": _number(latent.density),
        "topLogits": _effects(latent.effects("promoted")),
        "bottomLogits": _effects(latent.effects("suppressed")),
        "activations": activations,
    }
    if latent.explanation:
        made = {"methodName": place.explained_by.lower(), "modelName": place.explaining_model.lower()}
        text = _text(latent.explanation)[:512]
        found["explanations"] = [{"text": text, **{key: name for key, name in made.items() if name}}]
    return found


def dashboard_feature(latent: Described, *, prompts: int, prompt_tokens: int, dataset: str) -> dict[str, Any]:
    """A latent in a batch of SAEDashboard."""
    return {
        "feature_index": latent.index,
        **latent.statistics(),
        "n_prompts_total": prompts,
        "n_tokens_in_prompt": prompt_tokens,
        "dataset": dataset,
        "activations": [
            {
                "bin_min": low,
                "bin_max": high,
                "bin_contains": share,
                "tokens": _tokens(example),
                "values": _values(example),
                "qualifying_token_index": example.peak,
            }
            for example, low, high, share in latent.examples()
        ],
        **({"vector": [_number(value) for value in latent.vector]} if latent.vector else {}),
    }


def _effects(effects: Sequence[tuple[str, float]]) -> list[dict[str, Any]]:
    return [{"token": text, "value": value} for text, value in effects]


def _tokens(example: ExampleRecord) -> list[str]:
    return [_text(token) for token in example.tokens]


def _values(example: ExampleRecord) -> list[float]:
    return [_number(float(value)) for value in example.values]


def _text(text: str) -> str:
    """Text as the site takes it: of some length, without what UTF-8 or its database has no place for."""
    whole = text.encode("utf-8", "replace").decode() if not text.isascii() else text
    return whole.replace("\0", "␀") or NO_TEXT


def _number(value: float) -> float:
    return rounded(float(value)) or 0.0


def _id(place: Place, kind: str, index: int, number: int) -> str:
    """The same row has the same id whenever it is written, so that importing it twice adds nothing."""
    name = "\n".join([kind, place.model_id, place.source, str(index), str(number)])
    return hashlib.sha256(name.encode()).hexdigest()[:25]
