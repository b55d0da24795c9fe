"""What a graph's JSON must be so that Neuronpedia takes and shows it: its published schema, and what its viewer and
server ask for besides. Checked here, without a network; the tables are our own.
"""

from __future__ import annotations

import gzip
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..errors import AnalysisError, listed, shown
from .graph_form import FEATURE, GRAPH, problems_of_form

FEATURE_TYPES = (
    "cross layer transcoder",
    "mlp reconstruction error",
    "embedding",
    "logit",
    "lorsa",
    "lorsa error",
    "bias",
    "unknown",
)
LATENT_TYPES = ("cross layer transcoder", "lorsa")
SMALLEST_UPLOAD, LARGEST_UPLOAD = 1024, 100 * 2**20
"""Bytes of an upload; the smaller bound holds for the compressed file too, which the client sends."""
LARGEST_PAIRED = 1.1e15
"""The largest paired feature number that a browser takes apart again."""
NAME = re.compile(r"[A-Za-z0-9_.-]+")


def cantor(layer: int, index: int) -> int:
    """A latent's layer and index as one number."""
    return (layer + index) * (layer + index + 1) // 2 + index


def uncantor(feature: int) -> tuple[int, int]:
    """Layer and index again, by floating point as a browser does."""
    diagonal = math.floor((math.sqrt(8 * feature + 1) - 1) / 2)
    index = feature - diagonal * (diagonal + 1) // 2
    return diagonal - index, index


def check_graph_json(content: Any, *, to_read: bool = False) -> None:
    """`AnalysisError` with the first few of all that is wrong with a graph's JSON data; see `graph_problems`."""
    problems = graph_problems(content, to_read=to_read)
    if problems:
        raise AnalysisError(f"the graph's JSON is not valid: {listed(problems)}")


def graph_problems(content: Any, *, to_read: bool = False) -> list[str]:
    """All that is wrong with a graph's JSON data, each with its place; where its form is wrong, only that.

    `to_read` leaves out what only matters where the file is shown, which files of other libraries need not keep.
    """
    rules = _MEANING if to_read else _RULES
    return list(problems_of_form(content, GRAPH, "graph")) or [problem for rule in rules for problem in rule(content)]


def upload_problems(name: str, text: str) -> list[str]:
    """What is wrong with a file for an upload: its name and its size, plain and compressed."""
    data = text.encode()
    packed = len(gzip.compress(data))
    problems = [] if name.endswith(".json") else [f"the name {shown(name)} should end in .json"]
    if len(data) > LARGEST_UPLOAD:
        problems.append(f"the file has {len(data):,} bytes; {LARGEST_UPLOAD:,} are allowed")
    if min(len(data), packed) < SMALLEST_UPLOAD:
        problems.append(
            f"the file has {len(data):,} bytes, {packed:,} compressed; {SMALLEST_UPLOAD:,} are needed of both"
        )
    return problems


def feature_problems(content: Any, feature: int | None = None) -> list[str]:
    """What is wrong with the JSON data of one latent's details; `feature` is what its file is called."""
    problems = list(problems_of_form(content, FEATURE, "feature"))
    if problems:
        return problems
    if feature is not None and content["index"] < 0:
        problems.append(f"feature.index is {content['index']}")
    for q, quantile in enumerate(content["examples_quantiles"]):
        for e, example in enumerate(quantile["examples"]):
            tokens, values = len(example["tokens"]), len(example["tokens_acts_list"])
            if tokens != values:
                place = f"feature.examples_quantiles[{q}].examples[{e}]"
                problems.append(f"{place} has {tokens} tokens and {values} activations")
    return problems


# -- the rules: what a file of the right form must say ----------------------------------------------------------------


def _names(content: Any) -> Iterator[str]:
    for key in ("slug", "scan"):
        value = content["metadata"][key]
        if not NAME.fullmatch(value):
            yield f"graph.metadata.{key} should be letters, digits, '_', '.' and '-' only, not {shown(value)}"


def _twice(content: Any, key: str) -> Iterator[str]:
    counts = Counter(node[key] for node in content["nodes"])
    yield from (f"{count} nodes have {key} {shown(name)}" for name, count in counts.items() if count > 1)


def _marks(content: Any) -> Iterator[str]:
    yield from _twice(content, "jsNodeId")


def _ids(content: Any) -> Iterator[str]:
    yield from _twice(content, "node_id")
    there = {node["node_id"] for node in content["nodes"]}
    for i, link in enumerate(content["links"]):
        for end in ("source", "target"):
            if link[end] not in there:
                yield f"graph.links[{i}].{end} {shown(link[end])} is not a node"
        if link["source"] == link["target"]:
            yield f"graph.links[{i}] leads from {shown(link['source'])} to itself"
    parameters = content["qParams"]
    named = [*parameters.get("pinnedIds", [])]
    for i, supernode in enumerate(parameters.get("supernodes", [])):
        if len(supernode) < 2:
            yield f"graph.qParams.supernodes[{i}] should be a label and at least one node"
        named += supernode[1:]
    yield from (f"graph.qParams names {shown(name)}, which is not a node" for name in named if name not in there)


def _numbers(content: Any) -> Iterator[str]:
    def walk(value: Any, place: str) -> Iterator[str]:
        if isinstance(value, float) and not math.isfinite(value):
            yield f"{place} is {value}, which JSON does not have"
        elif isinstance(value, Mapping):
            for key, one in value.items():
                yield from walk(one, f"{place}.{key}")
        elif isinstance(value, list):
            for i, one in enumerate(value):
                yield from walk(one, f"{place}[{i}]")

    yield from walk(content, "graph")
    for i, node in enumerate(content["nodes"]):
        influence = node.get("influence")
        # The sum of shares may be off by rounding at its end.
        if influence is not None and not 0 <= influence <= 1 + 1e-6:
            yield f"graph.nodes[{i}].influence should be in [0, 1], not {influence}"


def _nodes(content: Any) -> Iterator[str]:
    length = len(content["metadata"]["prompt_tokens"])
    for i, node in enumerate(content["nodes"]):
        place = f"graph.nodes[{i}]"
        if node["feature_type"] not in FEATURE_TYPES:
            yield f"{place}.feature_type {shown(node['feature_type'])} is not one of {', '.join(FEATURE_TYPES)}"
        if not 0 <= node["ctx_idx"] < length:
            yield f"{place}.ctx_idx is {node['ctx_idx']}, but there are {length} prompt_tokens"
        if node["feature_type"] == "embedding" and node["layer"] != "E":
            yield f"{place}.layer of an embedding should be 'E', not {shown(node['layer'])}"
        elif node["feature_type"] not in ("embedding", "bias") and _layer(node) is None:
            yield f"{place}.layer should be a number, not {shown(node['layer'])}"


def _shown(content: Any) -> Iterator[str]:
    for i, node in enumerate(content["nodes"]):
        place = f"graph.nodes[{i}]"
        if node["feature_type"] == "logit" and node["clerp"] and not re.search(r"\(p=\d*\.?\d+\)", node["clerp"]):
            yield f"{place}.clerp of a logit should end in a probability such as (p=0.123), not {shown(node['clerp'])}"
        if any(ord(character) < 32 for character in node["clerp"]):
            yield f"{place}.clerp has control characters, which are shown as they are: {shown(node['clerp'])}"
    layers = [_layer(node) or 0 for node in content["nodes"] if node["feature_type"] != "logit"]
    if max(layers, default=0) < 1:
        yield "no node but logits has a layer of 1 or more, and the viewer needs one"


def _features(content: Any) -> Iterator[str]:
    metadata = content["metadata"]
    details, info = metadata.get("feature_details", {}), metadata.get("info", {})
    paired = metadata.get("schema_version") == 1
    base = details.get("feature_json_base_url", "")
    sets = {
        "feature_details": details.get("neuronpedia_source_set", ""),
        "info": info.get("neuronpedia_source_set", ""),
    }
    if base and (paired or any(sets.values())):
        yield (
            "graph.metadata has a feature_json_base_url, which is not looked at where there is schema_version 1 or a "
            "source set; leave one out"
        )
    if base and not base.startswith("https://"):
        yield f"graph.metadata.feature_details.feature_json_base_url should begin with https://, not {shown(base)}"
    if len(set(sets.values())) > 1:
        yield (
            "graph.metadata.feature_details and .info should have the same neuronpedia_source_set, since the viewer "
            f"reads one and the server the other; they have {shown(sets)}"
        )
    yield from (
        f"graph.metadata.{key}.neuronpedia_source_set should not have a '/': only the part after it counts"
        for key, name in sets.items()
        if "/" in name
    )
    for i, node in enumerate(content["nodes"]):
        if not paired or node["feature_type"] not in LATENT_TYPES:
            continue
        place, feature = f"graph.nodes[{i}]", node["feature"]
        if feature is None or feature < 0:
            yield f"{place}.feature of a latent should be its layer and index in one number, not {shown(feature)}"
        elif feature >= LARGEST_PAIRED:
            yield f"{place}.feature {feature} is too large for a browser to take apart"
        elif uncantor(int(feature))[0] != _layer(node):
            yield f"{place}.feature {feature} is of layer {uncantor(int(feature))[0]}, but its layer is {node['layer']}"


def _layer(node: Mapping[str, Any]) -> int | None:
    try:
        return int(node["layer"])
    except ValueError:
        return None


_MEANING: Sequence[Callable[[Any], Iterator[str]]] = (_ids, _numbers, _nodes)
_RULES: Sequence[Callable[[Any], Iterator[str]]] = (_names, _marks, *_MEANING, _shown, _features)
