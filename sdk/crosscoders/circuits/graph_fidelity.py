"""Whether a graph is true of the model: what it says of its strongest latents against what ablating them does.

Two things are compared. *Direct* effects, with everything held, are what single edges say; they agree but for rounding.
*Total* effects, with all latents encoded anew and MLPs following, are what all paths together say, as far as latents
stay in the linear part of their gates; where they do not, or where what matters is in errors, graph and model differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from attrs import frozen
from scipy import sparse

from ..errors import AnalysisError
from ..models.linear import one_row
from ..reports import Table
from .graph import AttributionGraph
from .interventions import Intervention, Mode, intervene
from .replacement import ReplacementModel, Skip

Matrix = Any
"""A numpy matrix."""


@frozen(eq=False)
class GraphFidelity:
    """Predicted and observed changes of N ablated latents on K targets, in the targets' own units (N, K)."""

    graph: AttributionGraph
    nodes: Sequence[int]
    predicted_direct_NK: Matrix
    observed_direct_NK: Matrix
    predicted_NK: Matrix
    observed_NK: Matrix

    @property
    def direct_error(self) -> float:
        """The largest difference of direct effects: rounding, or the graph is not of this model."""
        return float(np.abs(self.predicted_direct_NK - self.observed_direct_NK).max())

    @property
    def correlation(self) -> float:
        """Pearson's correlation of total effects over all latents and targets; NaN where one side is constant."""
        predicted, observed = self.predicted_NK.ravel(), self.observed_NK.ravel()
        if len(predicted) < 2 or predicted.std() == 0 or observed.std() == 0:
            return float("nan")
        return float(np.corrcoef(predicted, observed)[0, 1])

    @property
    def explained(self) -> float:
        """1 − Σ(observed − predicted)² / Σ observed², of total effects."""
        total = float(np.square(self.observed_NK).sum())
        return 1.0 - float(np.square(self.observed_NK - self.predicted_NK).sum()) / total if total else float("nan")

    def table(self) -> Table:
        """`latent`, `target`, `direct` and `observed_direct`, `total` and `observed_total`."""
        rows = [
            (
                self.graph.name(node),
                target.label,
                *(
                    float(part[n, k])
                    for part in (
                        self.predicted_direct_NK,
                        self.observed_direct_NK,
                        self.predicted_NK,
                        self.observed_NK,
                    )
                ),
            )
            for n, node in enumerate(self.nodes)
            for k, target in enumerate(self.graph.targets)
        ]
        return Table(
            title=(
                f"Ablating the {len(self.nodes)} latents of most influence: correlation {self.correlation:.3f}, "
                f"explained {self.explained:.3f}"
            ),
            columns=("latent", "target", "direct", "observed_direct", "total", "observed_total"),
            rows=rows,
        )


def total_effects(graph: AttributionGraph, nodes: Sequence[int]) -> Matrix:
    """What ablating each of N latents does to each of K targets over all paths, (N, K), if all gates stay as they are.

    A latent whose pre-activation loses a share of its value loses that share of all that it writes.
    """
    count = graph.num_latents
    edges_MM = graph.edges_MM.astype(np.float64)
    among_nn = sparse.diags(1.0 / graph.value_n.double().numpy()) @ edges_MM[:count, :count] if count else edges_MM
    step_nN = np.zeros((count, len(nodes)))
    step_nN[list(nodes), range(len(nodes))] = -1.0
    share_nN = step_nN.copy()
    while step_nN.any():
        step_nN = among_nn @ step_nN
        share_nN += step_nN
    return np.asarray((edges_MM[graph.logits, :count] @ share_nN).T)


def graph_fidelity(
    model: ReplacementModel, graph: AttributionGraph, *, top: int = 20, skip_positions: Skip = None
) -> GraphFidelity:
    """Ablate the `top` latents of most influence, one by one at their positions, and compare with the graph.

    Patterns are held, norms are not. `skip_positions` should be what the graph was made with.
    """
    if graph.target_KD.shape[1] == 0:
        raise AnalysisError("the graph was read from a file without directions of targets; make it anew, or save it")
    if top < 1 or not graph.num_latents:
        raise AnalysisError(f"top should be at least 1 and the graph have latents, not {top} of {graph.num_latents}")
    nodes = np.argsort(-graph.influence_M[graph.latents], kind="stable")[:top].tolist()
    if skip_positions is None:
        skip_positions = graph.record.get("settings", {}).get("skipped")
    direct: list[torch.Tensor] = []
    total: list[torch.Tensor] = []
    modes: list[tuple[Mode, list[torch.Tensor]]] = [("direct", direct), ("iterative", total)]
    for node in nodes:
        layer, position, index = graph.latent_n3[node].tolist()
        ablation = [Intervention(layer, index, "ablate", position)]
        for mode, found in modes:
            after = intervene(model, one_row(graph.ids), ablation, mode=mode, skip_positions=skip_positions)
            step_D = (after.values["final"] - after.clean["final"])[graph.position]
            found.append((graph.target_KD.to(step_D) @ step_D).cpu())
    observed_direct, observed = (torch.stack(part).double().numpy() for part in (direct, total))
    predicted_direct = -graph.edges_MM[graph.logits][:, nodes].toarray().T.astype(np.float64)
    return GraphFidelity(graph, nodes, predicted_direct, observed_direct, total_effects(graph, nodes), observed)
