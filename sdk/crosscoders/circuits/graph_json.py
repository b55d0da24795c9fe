"""Graphs as the JSON that circuit-tracer's viewer and Neuronpedia read, written and read.

The file holds a pruned graph. Keys of our own, which other readers pass over, keep what the format has no place for: a
graph that we wrote is read back as it was.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse

from ..errors import AnalysisError, printable
from ..files import write_whole
from ..reading import parse_json, read_text
from .graph import AttributionGraph, GraphTarget
from .graph_rules import cantor, check_graph_json, uncantor
from .latent_sets import layer_of

LATENT, ERROR, ATTENTION_ERROR = "cross layer transcoder", "mlp reconstruction error", "lorsa error"
OWN = "crosscoders"


def graph_to_json(
    graph: AttributionGraph,
    *,
    slug: str,
    scan: str,
    source_set: str = "",
    labels: Mapping[tuple[int, int], str] | None = None,
    supernodes: Sequence[Sequence[str]] = (),
    node_threshold: float = 0.8,
    edge_threshold: float = 0.98,
    bias_node: bool = False,
    whole: bool = False,
    check: bool = True,
) -> dict[str, Any]:
    """The graph, pruned, as JSON data that passes `check_graph_json`; `check` says whether it has to.

    `whole` leaves nothing out, whatever the thresholds say.

    `slug` names the graph; `scan` is the model's id and `source_set` its set of latents, as Neuronpedia calls them.
    `labels` are words for latents by layer and index. `bias_node` adds a node for what biases give.
    """
    kept = graph.prune(node_threshold=node_threshold, edge_threshold=edge_threshold)
    part = graph if whole else graph.pruned(node_threshold=node_threshold, edge_threshold=edge_threshold)
    stays_M = np.ones_like(kept.nodes_M) if whole else kept.nodes_M.copy()
    stays_M[graph.errors] = True
    shares = kept.cumulative_M[stays_M]
    giving = set(part.edges_MM.indices.tolist())
    nodes, ids = [], {}
    for node in range(part.num_nodes):
        if part.errors.start <= node < part.errors.stop and node not in giving and not whole:
            continue
        ids[node] = node_id(part, node)
        influence = float(shares[node]) if node < part.logits.start else None
        nodes.append(node_data(part, node, ids[node], influence, labels or {}))
    edges = part.edges_MM.tocoo()
    links = [
        {"source": ids[int(source)], "target": ids[int(target)], "weight": float(weight)}
        for target, source, weight in zip(edges.row, edges.col, edges.data, strict=True)
    ]
    if bias_node:
        nodes.append({**_PLAIN, **_BIAS})
        constants = enumerate(part.constant_M.tolist())
        links += [{"source": "bias", "target": ids[n], "weight": c} for n, c in constants if n in ids and c]
    texts = [visible(text) for text in graph.texts]
    metadata: dict[str, Any] = {
        "slug": slug,
        "scan": scan,
        "transcoder_list": [],
        "prompt_tokens": texts,
        "prompt": visible("".join(graph.texts)),
        "node_threshold": node_threshold,
        "schema_version": 1,
        "info": {"generator": {"name": "crosscoders"}},
        "pruning_settings": {"node_threshold": node_threshold, "edge_threshold": edge_threshold},
        OWN: {
            "ids": part.ids,
            "texts": part.texts,
            "cuts": part.cuts,
            "position": part.position,
            "num_layers": part.num_layers,
            "vocabulary_size": part.vocabulary_size,
            "num_active": part.num_active,
            "record": dict(part.record),
            "targets": [
                {"label": t.label, "kind": t.kind, "weight": t.weight, "token": t.token, "value": t.value}
                for t in part.targets
            ],
        },
    }
    if source_set:
        metadata["feature_details"] = {"neuronpedia_source_set": source_set}
        metadata["info"]["neuronpedia_source_set"] = source_set
    parameters = {
        "pinnedIds": [],
        "supernodes": [list(one) for one in supernodes],
        "linkType": "both",
        "clickedId": "",
        "sg_pos": "",
    }
    content = {"metadata": metadata, "qParams": parameters, "nodes": nodes, "links": links}
    if check:
        check_graph_json(content)
    return content


def write_graph_json(graph: AttributionGraph, path: str | Path, **options: Any) -> Path:
    """Write `graph_to_json(graph, **options)` into a file; `slug` is the file's name if it is not given."""
    path = Path(path)
    options.setdefault("slug", re.sub(r"[^A-Za-z0-9_.-]+", "-", path.stem))
    text = json.dumps(graph_to_json(graph, **options), ensure_ascii=False, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text)
    return path


def read_graph_json(given: str | Path | Mapping[str, Any]) -> AttributionGraph:
    """The graph of such a file, or of its JSON data; `AnalysisError` lists what is wrong with it.

    In files of others, edges are all there is: what they add up to counts as the total, and token ids are read from the
    nodes of embeddings.
    """
    if isinstance(given, str | Path):
        try:
            given = parse_json(read_text(Path(given), AnalysisError), str(given), AnalysisError)
        except FileNotFoundError as error:
            raise AnalysisError(f"there is no file {given}") from error
    check_graph_json(given, to_read=True)
    return _Reader(given).graph()  # type: ignore[arg-type]


class _Reader:
    def __init__(self, content: Mapping[str, Any]) -> None:
        self.metadata, self.links = content["metadata"], content["links"]
        self.own: Mapping[str, Any] = self.metadata.get(OWN) or {}
        nodes = [node for node in content["nodes"] if node["feature_type"] != "bias"]
        self.errors = [node for node in nodes if "error" in node["feature_type"]]
        self.embeddings = [node for node in nodes if node["feature_type"] == "embedding"]
        self.logits = [node for node in nodes if node["feature_type"] == "logit"]
        fixed = {node["node_id"] for node in (*self.errors, *self.embeddings, *self.logits)}
        latents = [node for node in nodes if node["node_id"] not in fixed]
        self.latents = sorted(latents, key=lambda node: (int(node["layer"]), node["ctx_idx"], self._index(node)))
        if not self.logits:
            raise AnalysisError("the graph has no logit nodes, so there is nothing that it explains")

    def _index(self, node: Mapping[str, Any]) -> int:
        feature = int(node["feature"] or 0)
        return uncantor(feature)[1] if self.metadata.get("schema_version") == 1 else feature

    def graph(self) -> AttributionGraph:
        """All of it."""
        texts = list(self.own.get("texts", self.metadata["prompt_tokens"]))
        length = len(texts)
        layers = int(self.own.get("num_layers", max(int(node["layer"]) for node in self.logits) - 1))
        cuts = list(self.own.get("cuts") or self._cuts(layers))
        first_error = len(self.latents)
        first_embedding = first_error + len(cuts) * length
        first_logit = first_embedding + length
        place = {node["node_id"]: at for at, node in enumerate(self.latents)}
        for node in self.errors:
            point = _error_point(node)
            if point not in cuts:
                raise AnalysisError(f"node {node['node_id']} is an error of {point}, which the graph does not have")
            place[node["node_id"]] = first_error + cuts.index(point) * length + node["ctx_idx"]
        place |= {node["node_id"]: first_embedding + node["ctx_idx"] for node in self.embeddings}
        place |= {node["node_id"]: first_logit + at for at, node in enumerate(self.logits)}
        size = first_logit + len(self.logits)
        known = [link for link in self.links if link["source"] in place and link["target"] in place]
        edges_MM = sparse.csr_matrix(
            (
                np.array([link["weight"] for link in known], dtype=np.float32),
                ([place[link["target"]] for link in known], [place[link["source"]] for link in known]),
            ),
            shape=(size, size),
        )
        columns = {name: torch.zeros(size) for name in ("constant", "left_out", "total")}
        columns["total"] = torch.from_numpy(np.asarray(edges_MM.sum(axis=1)).ravel())
        for node in (*self.latents, *self.logits):
            for name, values in (node.get(OWN) or {}).items():
                columns[name][place[node["node_id"]]] = values
        ids = self.own.get("ids") or self._ids(length)
        index_n3 = [[int(node["layer"]), node["ctx_idx"], self._index(node)] for node in self.latents]
        return AttributionGraph(
            ids=list(ids),
            texts=texts,
            cuts=cuts,
            latent_n3=torch.tensor(index_n3, dtype=torch.int64).reshape(-1, 3),
            value_n=torch.tensor([float(node.get("activation") or 0.0) for node in self.latents]),
            targets=self._targets(),
            target_KD=torch.zeros(len(self.logits), 0),
            position=int(self.own.get("position", max(node["ctx_idx"] for node in self.logits))),
            edges_MM=edges_MM,
            constant_M=columns["constant"],
            left_out_M=columns["left_out"],
            total_M=columns["total"],
            num_layers=layers,
            vocabulary_size=int(self.own.get("vocabulary_size", 1 + max(int(n["feature"] or 0) for n in self.logits))),
            num_active=int(self.own.get("num_active", len(self.latents))),
            record=dict(self.own.get("record") or {}),
        )

    def _cuts(self, layers: int) -> list[str]:
        there = {_error_point(node) for node in self.errors} | {f"layers.{layer}.mlp" for layer in range(layers)}
        return sorted(there, key=lambda point: (layer_of(point), point.endswith(".mlp")))

    def _ids(self, length: int) -> list[int]:
        ids = [-1] * length
        for node in self.embeddings:
            found = re.fullmatch(r"E_(\d+)_\d+", node["node_id"])
            ids[node["ctx_idx"]] = int(found[1]) if found else -1
        return ids

    def _targets(self) -> list[GraphTarget]:
        if self.own.get("targets"):
            return [GraphTarget(**target) for target in self.own["targets"]]
        found = []
        for node in self.logits:
            label = re.fullmatch(r'(?:Output )?"(.*)" \(p=.*\)', node["clerp"], re.DOTALL)
            probability = re.search(r"\(p=([\d.]+)\)", node["clerp"])
            weight = node.get("token_prob") or (float(probability[1]) if probability else 1.0)
            found.append(
                GraphTarget(label[1] if label else node["clerp"], "token", float(weight), int(node["feature"]))
            )
        return found


_PLAIN: dict[str, Any] = {
    "token_prob": 0.0,
    "is_target_logit": False,
    "run_idx": 0,
    "reverse_ctx_idx": 0,
    "clerp": "",
    "influence": None,
    "activation": None,
}
_BIAS = {
    "node_id": "bias",
    "feature": None,
    "layer": "E",
    "ctx_idx": 0,
    "feature_type": "bias",
    "jsNodeId": "bias",
    "clerp": "biases",
}


def visible(text: str) -> str:
    """Text with line ends, tabs and control characters shown by signs, as a viewer should print them."""
    return printable(text.replace("\n", "⏎").replace("\t", "⇥"))


def node_id(graph: AttributionGraph, node: int) -> str:
    """What a node is called in graph files."""
    length = len(graph.ids)
    if node < graph.errors.start:
        layer, position, index = graph.latent_n3[node].tolist()
        return f"{layer}_{index}_{position}"
    if node < graph.embeddings.start:
        number, position = divmod(node - graph.errors.start, length)
        cut = graph.cuts[number]
        return f"{layer_of(cut)}_{-1 if cut.endswith('.mlp') else -2}_{position}"
    if node < graph.logits.start:
        position = node - graph.embeddings.start
        return f"E_{graph.ids[position]}_{position}"
    return f"{graph.num_layers + 1}_{_logit(graph, node)}_{graph.position}"


def _logit(graph: AttributionGraph, node: int) -> int:
    """The token of a target; others are numbered from the end of the vocabulary."""
    place = node - graph.logits.start
    token = graph.targets[place].token
    return int(graph.vocabulary_size + place if token is None else token)


def node_data(
    graph: AttributionGraph, node: int, name: str, influence: float | None, labels: Mapping[tuple[int, int], str]
) -> dict[str, Any]:
    """A node as graph files have it, under a name."""
    common = {**_PLAIN, "node_id": name, "influence": influence, "jsNodeId": name}
    if node < graph.errors.start:
        layer, position, index = graph.latent_n3[node].tolist()
        return {
            **common,
            "feature": cantor(layer, index),
            "layer": str(layer),
            "ctx_idx": position,
            "feature_type": LATENT,
            "jsNodeId": f"{layer}_{index}-{position}",
            "clerp": visible(labels.get((layer, index), "")),
            "activation": float(graph.value_n[node]),
            OWN: _sums(graph, node),
        }
    if node < graph.embeddings.start:
        number, position = divmod(node - graph.errors.start, len(graph.ids))
        cut = graph.cuts[number]
        return {
            **common,
            "feature": -1,
            "layer": str(layer_of(cut)),
            "ctx_idx": position,
            "feature_type": ERROR if cut.endswith(".mlp") else ATTENTION_ERROR,
        }
    if node < graph.logits.start:
        position = node - graph.embeddings.start
        return {**common, "feature": position, "layer": "E", "ctx_idx": position, "feature_type": "embedding"}
    target = graph.targets[node - graph.logits.start]
    return {
        **common,
        "feature": _logit(graph, node),
        "layer": str(graph.num_layers + 1),
        "ctx_idx": graph.position,
        "feature_type": "logit",
        "jsNodeId": f"L_{_logit(graph, node)}-{graph.position}",
        "clerp": f'Output "{visible(target.label)}" (p={target.weight:.3f})',
        "token_prob": target.weight,
        "is_target_logit": node == graph.logits.start,
        OWN: _sums(graph, node),
    }


def _sums(graph: AttributionGraph, node: int) -> dict[str, float]:
    return {
        "constant": float(graph.constant_M[node]),
        "left_out": float(graph.left_out_M[node]),
        "total": float(graph.total_M[node]),
    }


def _error_point(node: Mapping[str, Any]) -> str:
    part = "attention" if node["feature_type"] == ATTENTION_ERROR else "mlp"
    return f"layers.{int(node['layer'])}.{part}"
