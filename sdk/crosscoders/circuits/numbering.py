"""Which latents of which crosscoder are in a graph, whose own numbers count within the layer that latents read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..checkpoints.tensors import tensors_fingerprint
from .graph_rules import LATENT_TYPES
from .latent_sets import LatentSet


def numbering(sets: Sequence[LatentSet]) -> list[dict[str, Any]]:
    """For each crosscoder its fingerprint, and its latents as `[layer, first, size, number]`: how they are numbered
    within the layer, from `first` on, and in the crosscoder, from `number` on.

    JSON data that a graph's record keeps.
    """
    found: dict[int, dict[str, Any]] = {}
    for one in sets:
        if id(one.crosscoder) not in found:
            fingerprint = tensors_fingerprint(one.crosscoder.state_dict())
            found[id(one.crosscoder)] = {"fingerprint": fingerprint, "latents": []}
        spans = found[id(one.crosscoder)]["latents"]
        spans.append([one.layer, one.first, one.size, int(one.columns.start)])
    return list(found.values())


def numbers_of(content: Mapping[str, Any], fingerprint: str) -> dict[str, int]:
    """The numbers that latents of a graph's JSON data have in the crosscoder with that fingerprint, by
    `layer_index`.

    Empty where they are of another crosscoder, or the data do not say.
    """
    record = content["metadata"].get("crosscoders", {}).get("record", {})
    spans = list(_spans(record.get("crosscoders"), fingerprint))
    found = {}
    for node in content["nodes"]:
        if node["feature_type"] in LATENT_TYPES:
            key = node["node_id"].rpartition("_")[0]
            layer, _, index = key.partition("_")
            for at, first, size, number in spans:
                if layer == str(at) and index.isdecimal() and first <= int(index) < first + size:
                    found[key] = number + int(index) - first
    return found


def _spans(recorded: Any, fingerprint: str) -> Iterable[list[int]]:
    """Of a record that may have come from elsewhere."""
    for one in recorded if isinstance(recorded, list) else []:
        if isinstance(one, dict) and one.get("fingerprint") == fingerprint and isinstance(one.get("latents"), list):
            for span in one["latents"]:
                if isinstance(span, list) and len(span) == 4 and all(type(number) is int for number in span):
                    yield span
