"""How much each node of a graph matters to its targets, what may be left out, and two scores of a graph.

Edges count by size, as shares of all that flows into their target. The influence of a node on the targets is the sum
over all paths of the product of shares (Ameisen et al. 2025, "Circuit Tracing", appendix on graph pruning). Rows of a
matrix are targets of edges and columns sources.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from attrs import frozen
from scipy import sparse

from ..errors import AnalysisError

Vector = Any
"""A numpy vector over the nodes."""

LONGEST_PATH = 1000


def shares(edges_MM: Any) -> Any:
    """Sizes of edges as shares of their row, in double precision; a row of zeros stays one."""
    size_MM = abs(edges_MM.astype(np.float64)).tocsr()
    total_M = np.asarray(size_MM.sum(axis=1)).ravel()
    return sparse.diags(1.0 / np.maximum(total_M, 1e-10)) @ size_MM


def influence(share_MM: Any, weight_M: Vector) -> Vector:
    """Influence of every node on the weighted targets, over all paths of at least one edge.

    `AnalysisError` if the paths do not end: edges of a graph lead forward only.
    """
    flow_M, total_M = weight_M.astype(np.float64), np.zeros(len(weight_M))
    backwards_MM = share_MM.T.tocsr()
    for _ in range(LONGEST_PATH):
        flow_M = backwards_MM @ flow_M
        if not flow_M.any():
            return total_M
        total_M = total_M + flow_M
    raise AnalysisError("the graph has a cycle, so influence is not defined; its edges should lead forward only")


def cumulative_share(score_M: Vector) -> Vector:
    """For each node the share of all scores that it and the nodes of higher score make up: small is important."""
    order = np.argsort(-score_M, kind="stable")
    total = score_M.sum()
    found_M = np.empty_like(score_M, dtype=np.float64)
    found_M[order] = np.cumsum(score_M[order]) / (total if total else 1.0)
    return found_M


def cut(score: Vector, share: float) -> float:
    """The score at which the highest scores together reach a share of all."""
    if not len(score):
        return 0.0
    descending = np.sort(score)[::-1]
    reached = np.cumsum(descending) / (descending.sum() or 1.0)
    return float(descending[min(int(np.searchsorted(reached, share)), len(descending) - 1)])


@frozen(eq=False)
class Pruned:
    """What stays of a graph."""

    nodes_M: Vector
    """Boolean."""
    edges_MM: Any
    """The edges that stay, with their weights; scipy CSR."""
    cumulative_M: Vector
    """`cumulative_share` of the whole graph's influence."""


def prune(
    edges_MM: Any,
    weight_M: Vector,
    *,
    num_latents: int,
    num_errors: int,
    node_threshold: float = 0.8,
    edge_threshold: float = 0.98,
) -> Pruned:
    """Keep the nodes, then the edges among them, that make up these shares of influence.

    Nodes are in the order latents, errors, embeddings, targets. The last two always stay. A latent or error without an
    edge out goes too, and a latent without an edge in.
    """
    for name, threshold in (("node_threshold", node_threshold), ("edge_threshold", edge_threshold)):
        if not 0 < threshold <= 1:
            raise AnalysisError(f"{name} is a share of influence, in (0, 1], not {threshold}")
    influence_M = influence(shares(edges_MM), weight_M)
    kept_M = influence_M >= cut(influence_M, node_threshold)
    kept_M[num_latents + num_errors :] = True
    edges_MM = _among(edges_MM.tocsr(), kept_M)
    share_MM = shares(edges_MM)
    worth_M = influence(share_MM, weight_M) + weight_M
    score_MM = (sparse.diags(worth_M) @ share_MM).tocoo()
    enough = score_MM.data >= cut(score_MM.data, edge_threshold)
    mask_MM = sparse.csr_matrix(
        (np.ones(int(enough.sum()), dtype=bool), (score_MM.row[enough], score_MM.col[enough])), shape=edges_MM.shape
    )
    while True:
        before = int(kept_M.sum())
        out_M = np.asarray(mask_MM.astype(np.int64).sum(axis=0)).ravel() > 0
        in_M = np.asarray(mask_MM.astype(np.int64).sum(axis=1)).ravel() > 0
        kept_M[: num_latents + num_errors] &= out_M[: num_latents + num_errors]
        kept_M[:num_latents] &= in_M[:num_latents]
        mask_MM = _among(mask_MM, kept_M)
        if int(kept_M.sum()) == before:
            break
    return Pruned(kept_M, edges_MM.multiply(mask_MM).tocsr(), cumulative_share(influence_M))


def replacement_score(influence_M: Vector, errors: slice, embeddings: slice) -> float:
    """The share of what reaches the targets from the beginning that comes from tokens rather than errors."""
    tokens, lost = float(influence_M[embeddings].sum()), float(influence_M[errors].sum())
    return tokens / (tokens + lost) if tokens + lost else float("nan")


def completeness_score(share_MM: Any, influence_M: Vector, weight_M: Vector, errors: slice) -> float:
    """The share of inputs that are not errors, over all nodes by their influence."""
    from_errors_M = np.asarray(share_MM[:, errors].sum(axis=1)).ravel()
    worth_M = influence_M + weight_M
    return float(((1.0 - from_errors_M) * worth_M).sum() / worth_M.sum())


def _among(edges_MM: Any, kept_M: Vector) -> Any:
    """Only the edges between nodes that are kept."""
    edges = edges_MM.tocoo()
    both = kept_M[edges.row] & kept_M[edges.col]
    return sparse.csr_matrix((edges.data[both], (edges.row[both], edges.col[both])), shape=edges.shape)
