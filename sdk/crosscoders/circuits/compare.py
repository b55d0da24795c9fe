"""Two graphs of one prompt side by side: by one crosscoder in a base and a tuned model, for instance."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import cached_property

from attrs import frozen

from ..errors import AnalysisError
from ..reports import Table
from .graph import AttributionGraph

Key = Hashable


@frozen(eq=False, slots=False)
class ComparedGraphs:
    """Two graphs whose nodes are matched by what they are: a latent by layer, index and position, a target by token."""

    first: AttributionGraph
    second: AttributionGraph

    @cached_property
    def _nodes(self) -> tuple[dict[Key, int], dict[Key, int]]:
        return node_keys(self.first), node_keys(self.second)

    @property
    def common(self) -> list[tuple[int, int]]:
        """Pairs of nodes that both have: their numbers in the first and in the second graph."""
        first, second = self._nodes
        return [(node, second[key]) for key, node in first.items() if key in second]

    def only_in(self, which: int) -> list[int]:
        """Nodes that only the first (0) or only the second (1) graph has, by their numbers there."""
        own, other = self._nodes[which], self._nodes[1 - which]
        return [node for key, node in own.items() if key not in other]

    def edges(self, count: int = 30) -> Table:
        """The edges between common nodes that differ most: `source`, `target`, `first`, `second`, `change`."""
        pairs = self.common
        first_nodes, second_nodes = [a for a, _ in pairs], [b for _, b in pairs]
        before = self.first.edges_MM[first_nodes][:, first_nodes]
        after = self.second.edges_MM[second_nodes][:, second_nodes]
        change = (after - before).tocoo()
        order = abs(change.data).argsort(kind="stable")[::-1][:count]
        rows = []
        for i in order.tolist():
            target, source = int(change.row[i]), int(change.col[i])
            names = (self.first.name(first_nodes[source]), self.first.name(first_nodes[target]))
            rows.append((*names, float(before[target, source]), float(after[target, source]), float(change.data[i])))
        return Table(
            title=f"Edges that differ most, of {len(pairs)} nodes in both graphs",
            columns=("source", "target", "first", "second", "change"),
            rows=rows,
        )

    def nodes(self, count: int = 30) -> Table:
        """The latents whose influence differs most, 0 where a graph does not have them: `latent`, `first`, `second`."""
        first, second = self._nodes
        rows: list[tuple[str, float, float]] = []
        for key in {**first, **second}:
            if not (isinstance(key, tuple) and key[0] == "latent"):
                continue
            graph, node = (self.first, first[key]) if key in first else (self.second, second[key])
            before = float(self.first.influence_M[first[key]]) if key in first else 0.0
            after = float(self.second.influence_M[second[key]]) if key in second else 0.0
            rows.append((graph.name(node), before, after))
        rows.sort(key=lambda row: -abs(row[2] - row[1]))
        title = "Latents whose influence differs most"
        return Table(title=title, columns=("latent", "first", "second"), rows=rows[:count])


def compare_graphs(first: AttributionGraph, second: AttributionGraph) -> ComparedGraphs:
    """Match the nodes of two graphs; `AnalysisError` where they are not of the same tokens.

    Numbers of latents mean the same in both if one crosscoder made both, such as one that was trained on the base model
    and reads the tuned one too.
    """
    if first.ids != second.ids:
        raise AnalysisError(
            f"the graphs are of different tokens, {_shown(first.texts)} and {_shown(second.texts)}, so their nodes "
            "cannot be matched"
        )
    return ComparedGraphs(first, second)


def node_keys(graph: AttributionGraph) -> dict[Key, int]:
    """What each node is, by which nodes of two graphs are matched, and its number."""
    keys: list[Key] = [("latent", *latent) for latent in graph.latent_n3.tolist()]
    keys += [("error", cut, position) for cut in graph.cuts for position in range(len(graph.ids))]
    keys += [("token", position) for position in range(len(graph.ids))]
    keys += [("target", target.kind, target.label, target.token) for target in graph.targets]
    return {key: node for node, key in enumerate(keys)}


def _shown(texts: Sequence[str]) -> str:
    return repr("".join(texts[:20]))
