"""The folder of a graph: itself, a page to look at it, and the file of other viewers."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from ..errors import AnalysisError
from ..files import disk_errors, write_whole
from ..pages import asset, digest, script_json
from ..privacy.local import is_recorded
from ..reports import Table
from ..reports.report import cell
from .features import read_features
from .graph import AttributionGraph
from .graph_fidelity import GraphFidelity
from .graph_json import OWN, graph_to_json, visible, write_graph_json
from .replacement import Fidelity

MOST_WHOLE = 100_000
"""Edges up to which a page holds the whole graph besides the pruned one that it shows."""
MOST_CHECKED = 20
"""Rows of ablations on a page: those of the largest effects."""


def graph_page(
    graph: AttributionGraph,
    *,
    title: str = "",
    labels: Mapping[tuple[int, int], str] | None = None,
    fidelity: Fidelity | None = None,
    checked: GraphFidelity | None = None,
    features: str | Path | None = None,
    node_threshold: float = 0.8,
    edge_threshold: float = 0.98,
) -> str:
    """A graph as one page that opens from a disk: no server, no request to anywhere.

    Nodes stand by position and layer. The page has a search, a slider of influence, pins and groups, labels that the
    browser keeps, and keys for all of it; with `features`, a folder that `write_features` wrote, what latents respond
    to. A content policy lets only the page's own script run. The whole graph is in the page too, to be taken along,
    where it has up to 100,000 edges.
    """
    content = graph_to_json(
        graph,
        slug="graph",
        scan="model",
        labels=labels,
        node_threshold=node_threshold,
        edge_threshold=edge_threshold,
        check=False,
    )
    own = content["metadata"][OWN]
    own["shown"] = 1.0
    if features is not None:
        own["features"] = read_features(features, {node.get("feature") for node in content["nodes"]})
    if graph.edges_MM.nnz <= MOST_WHOLE:
        whole = graph_to_json(graph, slug="graph-whole", scan="model", labels=labels, whole=True, check=False)
        packed = base64.b64encode(gzip.compress(json.dumps(whole).encode(), mtime=0)).decode()
    else:
        packed = ""
    own["key"] = hashlib.sha256(json.dumps(content["nodes"]).encode()).hexdigest()[:16]
    script, style = (
        asset("show.js") + "".join(page_text(name) for name in ("drawing.js", "groups.js", "kept.js", "page.js")),
        asset("palette.css") + page_text("page.css"),
    )
    targets = ", ".join(f"“{visible(target.label)}”" for target in graph.targets)
    summary = (
        f"{sum(node['feature_type'] != 'logit' for node in content['nodes'])} nodes and {len(content['links'])} edges "
        f"of {graph.num_active} active latents, explaining {targets}; replacement score "
        f"{graph.replacement_score:.3f}, completeness {graph.completeness_score:.3f}; rows add up to {graph.gap():.1g}"
    )
    return (
        page_environment()
        .get_template("page.html")
        .render(
            title=title or visible("".join(graph.texts)),
            summary=summary,
            style=Markup(style),  # noqa: S704 - our own files
            script=Markup(script),  # noqa: S704
            style_hash=digest(style),
            script_hash=digest(script),
            data=Markup(script_json(content)),  # noqa: S704 - no '<' is left in it
            whole=packed,
            num_edges=graph.edges_MM.nnz,
            checked=_checks(checked) if checked else None,
            fidelity=fidelity.table() if fidelity else None,
        )
    )


def save_graph(
    graph: AttributionGraph,
    folder: str | Path,
    *,
    scan: str = "",
    source_set: str = "",
    labels: Mapping[tuple[int, int], str] | None = None,
    fidelity: Fidelity | None = None,
    checked: GraphFidelity | None = None,
    features: str | Path | None = None,
    node_threshold: float = 0.8,
    edge_threshold: float = 0.98,
    say: Callable[[str], None] = print,
) -> list[Path]:
    """Write `graph/` (all of it), `graph.html` and `neuronpedia.json` into a folder; returns what was written.

    With `features`, a folder that `write_features` wrote, the page shows what latents respond to. `say` is told why
    there is no `neuronpedia.json`, where its rules do not allow one: of a model with one layer, for
    instance.
    """
    folder = Path(folder)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    graph.save(folder / "graph")
    page = graph_page(
        graph,
        labels=labels,
        fidelity=fidelity,
        checked=checked,
        features=features,
        node_threshold=node_threshold,
        edge_threshold=edge_threshold,
    )
    write_whole(folder / "graph.html", page)
    written = [folder / "graph", folder / "graph.html"]
    model = str(dict(graph.record.get("model", {})).get("model", ""))
    model = "model" if is_recorded(model) else Path(model).name or "model"
    try:
        written.append(
            write_graph_json(
                graph,
                folder / "neuronpedia.json",
                slug=_name(folder.resolve().name),
                scan=_name(scan or model),
                source_set=source_set,
                labels=labels,
                node_threshold=node_threshold,
                edge_threshold=edge_threshold,
            )
        )
    except AnalysisError as error:
        say(f"no neuronpedia.json: {error}")
    return written


def _checks(checked: GraphFidelity) -> Table:
    table = checked.table()
    size_N = np.abs(checked.observed_NK).ravel()
    largest = np.argsort(-size_N, kind="stable")[:MOST_CHECKED].tolist()
    title = f"{table.title}; single edges are right to {checked.direct_error:.1g}. The largest changes of targets:"
    rows = [(table.rows[i][0], f"“{visible(str(table.rows[i][1]))}”", *table.rows[i][-2:]) for i in largest]
    return Table(title=title, columns=("latent", "target", "said", "seen"), rows=rows)


def _name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text)


def page_text(name: str) -> str:
    """A file of the pages' own script or style."""
    return files("crosscoders.circuits").joinpath("page", name).read_text(encoding="utf-8")


def page_environment() -> Environment:
    """Where the templates of pages are."""
    environment = Environment(loader=PackageLoader("crosscoders.circuits", "page"), autoescape=True, trim_blocks=True)
    environment.filters["cell"] = cell
    return environment
