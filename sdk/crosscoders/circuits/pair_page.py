"""Two graphs of one prompt side by side on one page: by one crosscoder in a base and a tuned model, for instance."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ..files import disk_errors, write_whole
from ..pages import asset, digest, script_json
from .compare import ComparedGraphs, node_keys
from .graph_files import page_environment, page_text
from .graph_json import node_data, node_id, visible

MOST_EDGES = 3000
"""Edges of a pair's page: those that are strongest in either graph."""


def pair_page(
    compared: ComparedGraphs,
    *,
    names: tuple[str, str] = ("first", "second"),
    title: str = "",
    labels: Mapping[tuple[int, int], str] | None = None,
    node_threshold: float = 0.8,
    edge_threshold: float = 0.98,
) -> str:
    """Two graphs side by side as one page that opens from a disk, the edges that changed drawn thick.

    What either graph keeps when it is pruned is shown in both, with the weights of the whole graphs, so that an edge
    that seems to be missing in one is not only pruned there. `names` are those of the models.
    """
    content = _content(compared, names, labels or {}, node_threshold, edge_threshold)
    script = asset("show.js") + page_text("drawing.js") + page_text("pair.js")
    style = asset("palette.css") + page_text("page.css") + page_text("pair.css")
    edges = content["edges"]
    return (
        page_environment()
        .get_template("pair.html")
        .render(
            title=title or visible("".join(compared.first.texts)),
            names=names,
            summary=f"{len(content['nodes'])} nodes and {len(edges)} edges of two graphs on one prompt",
            style=Markup(style),  # noqa: S704 - our own files
            script=Markup(script),  # noqa: S704
            style_hash=digest(style),
            script_hash=digest(script),
            data=Markup(script_json(content)),  # noqa: S704 - no '<' is left in it
        )
    )


def save_pair(compared: ComparedGraphs, path: str | Path, **options: Any) -> Path:
    """Write `pair_page(compared, **options)` into a file."""
    path = Path(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, pair_page(compared, **options))
    return path


def _content(
    compared: ComparedGraphs,
    names: tuple[str, str],
    labels: Mapping[tuple[int, int], str],
    node_threshold: float,
    edge_threshold: float,
) -> dict[str, Any]:
    graphs = (compared.first, compared.second)
    numbers: list[dict[Any, int]] = [dict(node_keys(graph)) for graph in graphs]
    wanted: set[tuple[Any, Any]] = set()
    for graph, keys in zip(graphs, numbers, strict=True):
        of_node = {node: key for key, node in keys.items()}
        pruned = graph.prune(node_threshold=node_threshold, edge_threshold=edge_threshold).edges_MM.tocoo()
        wanted |= {
            (of_node[source], of_node[target])
            for target, source in zip(pruned.row.tolist(), pruned.col.tolist(), strict=True)
        }
    edges = [_edge(graphs, numbers, source, target) for source, target in wanted]
    edges.sort(key=lambda edge: -max(abs(edge[2] or 0.0), abs(edge[3] or 0.0)))
    edges = edges[:MOST_EDGES]
    shown = {key for source, target, *_ in edges for key in (source, target)}
    shown |= {key for keys in numbers for key in keys if key[0] in ("token", "target")}
    place = {key: at for at, key in enumerate(sorted(shown, key=repr))}
    return {
        "names": list(names),
        "tokens": [visible(text) for text in graphs[0].texts],
        "nodes": [_node(key, graphs, numbers, labels) for key in place],
        "edges": [[place[source], place[target], first, second] for source, target, first, second in edges],
    }


def _edge(graphs: Any, numbers: Any, source: Any, target: Any) -> tuple[Any, Any, float | None, float | None]:
    """Its weights in both graphs; None where one of its ends is not there."""
    weights: list[float | None] = []
    for graph, keys in zip(graphs, numbers, strict=True):
        there = source in keys and target in keys
        weights.append(float(graph.edges_MM[keys[target], keys[source]]) if there else None)
    return source, target, weights[0], weights[1]


def _node(key: Any, graphs: Any, numbers: Any, labels: Mapping[tuple[int, int], str]) -> dict[str, Any]:
    graph, node = next((graph, keys[key]) for graph, keys in zip(graphs, numbers, strict=True) if key in keys)
    raw = node_data(graph, node, node_id(graph, node), None, labels)
    found = {name: raw[name] for name in ("node_id", "feature_type", "layer", "ctx_idx", "clerp")}
    values: list[list[float | None]] = []
    for graph, keys in zip(graphs, numbers, strict=True):
        if key not in keys:
            values.append([None, None])
            continue
        node = keys[key]
        activation = float(graph.value_n[node]) if node < graph.num_latents else None
        values.append([activation, float(graph.influence_M[node])])
    return {**found, "in": values}
