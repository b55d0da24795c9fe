"""Groups of a graph's nodes, as readers make them on its page, and changing one in the running model.

What the graph says of a change is set beside what happens: over the direct edges of the group, and over all paths if
gates stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import field, frozen
from scipy import sparse

from ..converters import as_tuple
from ..crosscoder.edits import Change, parsed
from ..devices import precise
from ..errors import AnalysisError, listed, shown
from ..models.linear import one_row
from ..reading import read_json
from ..reports import Table
from .graph import AttributionGraph
from .graph_rules import LATENT_TYPES, check_graph_json
from .interventions import Intervention, intervene
from .replacement import ReplacementModel, Skip

Latent = tuple[int, int, int]
"""Layer, position and index."""


@frozen
class Group:
    """Some latents of a graph, each at its position, under a name."""

    label: str
    latents: tuple[Latent, ...] = field(converter=as_tuple)

    def nodes(self, graph: AttributionGraph) -> list[int]:
        """Their numbers in a graph; `AnalysisError` names one that it does not have."""
        place = {tuple(latent): node for node, latent in enumerate(graph.latent_n3.tolist())}
        missing = [latent for latent in self.latents if latent not in place]
        if missing:
            layer, position, index = missing[0]
            raise AnalysisError(
                f"the group '{self.label}' has latent {layer}/{index} at {position}, which the graph does not have"
            )
        return [place[latent] for latent in self.latents]


def read_groups(given: str | Path | Mapping[str, Any]) -> list[Group]:
    """The groups of latents in a graph's JSON, such as its page exports, from a file or its data.

    Nodes of other kinds, which cannot be changed, are left out. `AnalysisError` where it is not that.
    """
    content: Any = given
    if not isinstance(given, Mapping):
        try:
            content = read_json(Path(given), AnalysisError)
        except FileNotFoundError as error:
            raise AnalysisError(f"there is no file {given}") from error
    check_graph_json(content, to_read=True)
    latents = {node["node_id"] for node in content["nodes"] if node["feature_type"] in LATENT_TYPES}
    return [
        Group(label, [_latent(name) for name in ids if name in latents])
        for label, *ids in content["qParams"].get("supernodes", [])
    ]


def group_called(groups: Sequence[Group], label: str) -> Group:
    """The group of that name; `AnalysisError` says which there are."""
    found = [group for group in groups if group.label == label]
    if len(found) != 1:
        names = listed([shown(group.label) for group in groups], ", ") or "none"
        raise AnalysisError(f"there should be one group called {shown(label)}, not {len(found)}; there are: {names}")
    if not found[0].latents:
        raise AnalysisError(f"the group {shown(label)} has no latents, and nothing else can be changed")
    return found[0]


@frozen(eq=False)
class GroupEffect:
    """What changing a group does to each of K targets, in the targets' own units, said and seen."""

    group: Group
    change: Change
    targets: Sequence[str]
    direct_K: Any
    """By the group's own edges."""
    total_K: Any
    """By all paths, if all gates stay as they are."""
    observed_K: Any
    """In the model, with latents encoded anew and MLPs following, attention patterns held."""
    before_K: Any
    after_K: Any
    """Probabilities of the targets that are tokens, before and with nothing held; NaN of others."""

    def table(self) -> Table:
        """`target`, `direct`, `total`, `observed`, `before`, `after`."""
        columns = (self.direct_K, self.total_K, self.observed_K, self.before_K, self.after_K)
        rows = [(label, *(float(column[k]) for column in columns)) for k, label in enumerate(self.targets)]
        return Table(
            title=f"Group {shown(self.group.label)}, {len(self.group.latents)} latents: {described(self.change)}",
            columns=("target", "direct", "total", "observed", "before", "after"),
            rows=rows,
        )

    def data(self) -> dict[str, Any]:
        """The same as JSON data, for a graph's page."""
        rows = [
            {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}
            for row in self.table()
        ]
        ids = [f"{layer}_{index}_{position}" for layer, position, index in self.group.latents]
        return {"label": self.group.label, "ids": ids, "change": described(self.change), "targets": rows}


def described(change: Change) -> str:
    """A change in words."""
    if isinstance(change, str):
        return change
    kind, value = change if isinstance(change, tuple) else ("add", change)
    return f"{kind} {value:g}"


def group_effects(graph: AttributionGraph, nodes: Sequence[int], change: Change = "ablate") -> tuple[Any, Any]:
    """What a graph says that changing latents together does to its K targets: over their edges, and over all paths.

    A latent whose pre-activation loses a share of its value loses that share of all that it writes. What reaches a
    latent that is changed itself counts as the change has it: not if it is ablated or clamped.
    """
    count = graph.num_latents
    edges_MM = graph.edges_MM.astype(np.float64)
    value_n = graph.value_n.double().numpy()
    put_n = np.zeros(count)
    put_n[list(nodes)], carried = _moved(change, value_n[list(nodes)])
    free_n = np.ones(count)
    free_n[list(nodes)] = carried
    to_targets = edges_MM[graph.logits, :count]
    among_nn = sparse.diags(free_n / value_n) @ edges_MM[:count, :count] if count else edges_MM
    step_n = put_n
    share_n = put_n.copy()
    while step_n.any():
        step_n = among_nn @ step_n
        share_n += step_n
    return np.asarray(to_targets @ put_n), np.asarray(to_targets @ share_n)


def intervene_on_group(
    model: ReplacementModel,
    graph: AttributionGraph,
    group: Group,
    change: Change = "ablate",
    *,
    skip_positions: Skip = None,
) -> GroupEffect:
    """Change all latents of a group at their positions in the running model, beside what the graph says of it.

    The graph is the whole one, of the same crosscoders and model.
    """
    if graph.target_KD.shape[1] == 0:
        raise AnalysisError("the graph was read from a file without directions of targets; load the folder `graph`")
    nodes = group.nodes(graph)
    direct_K, total_K = group_effects(graph, nodes, change)
    if skip_positions is None:
        skip_positions = graph.record.get("settings", {}).get("skipped")
    tokens = one_row(graph.ids)
    changes = [Intervention(layer, index, change, position) for layer, position, index in group.latents]
    held = intervene(model, tokens, changes, skip_positions=skip_positions)
    step_D = (held.values["final"] - held.clean["final"])[graph.position]
    free = intervene(model, tokens, changes, hold_attention=False, skip_positions=skip_positions)
    probabilities = [
        _probabilities(logits[graph.position], [target.token for target in graph.targets])
        for logits in (free.clean_TV, free.logits_TV)
    ]
    observed_K = (graph.target_KD.to(step_D) @ step_D).cpu().double().numpy()
    labels = [target.label for target in graph.targets]
    return GroupEffect(group, change, labels, direct_K, total_K, observed_K, *probabilities)


def _probabilities(logits_V: torch.Tensor, tokens: Iterable[int | None]) -> Any:
    probability_V = precise(logits_V).softmax(dim=0)
    return np.array([float("nan") if token is None else float(probability_V[token]) for token in tokens])


def _moved(change: Change, value_n: Any) -> tuple[Any, float]:
    """By how much of its value each latent is moved, and how much of what reaches it still does."""
    [(kind, value)] = parsed({0: change}, 1).values()
    if kind == "scale":
        return np.full(len(value_n), value - 1.0), value
    return (value / value_n, 1.0) if kind == "add" else (value / value_n - 1.0, 0.0)


def _latent(name: str) -> Latent:
    """The latent of a node's id, `{layer}_{index}_{position}`."""
    try:
        layer, index, position = map(int, name.split("_"))
    except ValueError as error:
        raise AnalysisError(f"the node {shown(name)} of a latent should be called layer_index_position") from error
    return layer, position, index
