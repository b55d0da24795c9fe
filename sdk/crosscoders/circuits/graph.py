"""Attribution graphs: which latents, errors and tokens of one prompt make which others and the next token."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import evolve, field, frozen
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..checkpoints.tensors import tensors_checksum
from ..errors import AnalysisError
from ..files import whole_folder
from ..reading import read_json
from ..reports import Table
from .influence import Pruned, completeness_score, influence, prune, replacement_score, shares
from .rows import csr_from_tensors, csr_tensors

FORMAT = 1


@frozen
class GraphTarget:
    """What a graph explains, without its direction."""

    label: str
    kind: str
    """`token`, `difference` or `direction`."""
    weight: float
    """A token's probability; 1 for others."""
    token: int | None = None
    value: float = 0.0
    """The logit before a cap, less the mean of all; ⟨direction, final⟩ for directions."""


@frozen(eq=False, slots=False)
class AttributionGraph:
    """A graph of M nodes, in the order latents (by layer, position, index), errors (by point, then position),
    embeddings, targets.

    An edge is what its source adds to its target: to a latent's pre-activation, or to a logit less the mean of all.
    With `constant_M` and `left_out_M` the edges of a row add up to `total_M`.
    """

    ids: list[int]
    texts: list[str]
    """The text of each token."""
    cuts: list[str]
    """Points with an error for each position."""
    latent_n3: Tensor
    """Layer, position and index (within the layer) of the latents."""
    value_n: Tensor
    targets: list[GraphTarget]
    target_KD: Tensor
    """Directions of the targets at `final`; (K, 0) in graphs read from files that do not hold them."""
    position: int
    """Where the targets are."""
    edges_MM: Any
    """Row: target, column: source; scipy CSR in fp32. Rows of errors and embeddings are empty."""
    constant_M: Tensor
    """What biases give to each row, and all that is left out by position."""
    left_out_M: Tensor
    """What active latents that are no nodes, since `max_nodes` left them out, give to each row."""
    total_M: Tensor
    """Pre-activation less the encoder's bias; the target's value less the output embedding's bias."""
    num_layers: int
    vocabulary_size: int
    num_active: int
    """Active latents of the prompt; more than are nodes where `max_nodes` says so."""
    record: Mapping[str, Any] = field(factory=dict)
    """JSON data: the model, where the crosscoders came from, how the graph was made."""

    # -- places -------------------------------------------------------------------------------------------------

    @property
    def num_latents(self) -> int:
        """The number of latents that are nodes."""
        return len(self.latent_n3)

    @property
    def num_nodes(self) -> int:
        """M."""
        return self.num_latents + (len(self.cuts) + 1) * len(self.ids) + len(self.targets)

    @property
    def latents(self) -> slice:
        """The places of latents."""
        return slice(0, self.num_latents)

    @property
    def errors(self) -> slice:
        """The places of errors."""
        return slice(self.num_latents, self.num_latents + len(self.cuts) * len(self.ids))

    @property
    def embeddings(self) -> slice:
        """The places of embeddings."""
        return slice(self.errors.stop, self.errors.stop + len(self.ids))

    @property
    def logits(self) -> slice:
        """The places of targets."""
        return slice(self.embeddings.stop, self.num_nodes)

    def name(self, node: int) -> str:
        """A node in words: `latent 3/17 at 5`, `error layers.3.mlp at 5`, `token " the" at 4`, `logit " of"`."""
        if not 0 <= node < self.num_nodes:
            raise AnalysisError(f"there is no node {node}; the graph has {self.num_nodes}")
        if node < self.errors.start:
            layer, position, index = self.latent_n3[node].tolist()
            return f"latent {layer}/{index} at {position}"
        if node < self.embeddings.start:
            number, position = divmod(node - self.errors.start, len(self.ids))
            return f"error {self.cuts[number]} at {position}"
        if node < self.logits.start:
            position = node - self.embeddings.start
            return f"token {json.dumps(self.texts[position], ensure_ascii=False)} at {position}"
        target = self.targets[node - self.logits.start]
        kind = "logit" if target.kind == "token" else target.kind
        return f"{kind} {json.dumps(target.label, ensure_ascii=False)}"

    # -- what it says -------------------------------------------------------------------------------------------

    @cached_property
    def weight_M(self) -> Any:
        """Weights of the targets, 0 elsewhere."""
        weight_M = np.zeros(self.num_nodes)
        weight_M[self.logits] = [target.weight for target in self.targets]
        return weight_M

    @cached_property
    def influence_M(self) -> Any:
        """Influence of every node on the targets, over all paths."""
        return influence(shares(self.edges_MM), self.weight_M)

    @property
    def replacement_score(self) -> float:
        """The share of what reaches the targets that comes from tokens rather than from errors."""
        return replacement_score(self.influence_M, self.errors, self.embeddings)

    @property
    def completeness_score(self) -> float:
        """The share of inputs that are not errors, over all nodes by influence."""
        return completeness_score(shares(self.edges_MM), self.influence_M, self.weight_M, self.errors)

    def prune(self, *, node_threshold: float = 0.8, edge_threshold: float = 0.98) -> Pruned:
        """What stays if nodes and edges are to make up these shares of influence."""
        return prune(
            self.edges_MM,
            self.weight_M,
            num_latents=self.num_latents,
            num_errors=self.errors.stop - self.errors.start,
            node_threshold=node_threshold,
            edge_threshold=edge_threshold,
        )

    def pruned(self, *, node_threshold: float = 0.8, edge_threshold: float = 0.98) -> AttributionGraph:
        """The graph of what stays; what the edges that go had given is in `left_out_M`, so that rows still add up."""
        kept = self.prune(node_threshold=node_threshold, edge_threshold=edge_threshold)
        keep_M = kept.nodes_M.copy()
        keep_M[self.errors] = True  # errors keep their places, with or without edges
        nodes = np.flatnonzero(keep_M)
        gone_M = np.asarray((self.edges_MM.astype(np.float64) - kept.edges_MM.astype(np.float64)).sum(axis=1)).ravel()
        rows = torch.from_numpy(nodes)
        latents = rows[rows < self.num_latents]
        return evolve(
            self,
            latent_n3=self.latent_n3[latents],
            value_n=self.value_n[latents],
            edges_MM=kept.edges_MM[nodes][:, nodes].tocsr(),
            constant_M=self.constant_M[rows],
            left_out_M=(self.left_out_M.double() + torch.from_numpy(gone_M))[rows].float(),
            total_M=self.total_M[rows],
        )

    def gap(self) -> float:
        """How far rows are from adding up, at most, as a share of the sizes of their terms (or of 1, if that is more).

        The terms are edges, constant and left out, and should add up to the total; rounding alone makes about 1e-6 of
        it in fp32, 1e-2 where the model computes in bfloat16.
        """
        exact_MM, total_M = self.edges_MM.astype(np.float64), self.total_M.double().numpy()
        rest = [self.constant_M.double().numpy(), self.left_out_M.double().numpy()]
        sum_M = np.asarray(exact_MM.sum(axis=1)).ravel() + sum(rest)
        size_M = np.asarray(abs(exact_MM).sum(axis=1)).ravel() + sum(np.abs(part) for part in rest)
        return float((np.abs(sum_M - total_M) / np.maximum(1.0, size_M)).max())

    def top(self, count: int = 20) -> Table:
        """The latents of most influence: `latent`, `layer`, `position`, `token`, `index`, `activation`, `influence`."""
        score_n = self.influence_M[self.latents]
        order = np.argsort(-score_n, kind="stable")[:count].tolist()
        rows = []
        for node in order:
            layer, position, index = self.latent_n3[node].tolist()
            rows.append(
                (node, layer, position, self.texts[position], index, float(self.value_n[node]), float(score_n[node]))
            )
        columns = ("node", "layer", "position", "token", "index", "activation", "influence")
        return Table(title=f"Latents by influence, of {self.num_latents}", columns=columns, rows=rows)

    def edges_into(self, node: int, count: int = 20) -> Table:
        """The strongest edges into a node: `source`, `name`, `weight`."""
        row = self.edges_MM.getrow(node)
        order = np.argsort(-np.abs(row.data), kind="stable")[:count]
        rows = [(int(row.indices[i]), self.name(int(row.indices[i])), float(row.data[i])) for i in order]
        return Table(title=f"Into {self.name(node)}", columns=("source", "name", "weight"), rows=rows)

    def __repr__(self) -> str:
        return (
            f"AttributionGraph({self.num_latents} of {self.num_active} active latents, {self.edges_MM.nnz} edges, "
            f"{len(self.ids)} tokens, targets {', '.join(target.label for target in self.targets)})"
        )

    # -- files --------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Write `graph.json` and `graph.safetensors` into a new folder, or in the place of an old graph's."""
        place = Path(folder)
        if place.is_dir() and any(place.iterdir()) and not (place / "graph.json").exists():
            raise AnalysisError(f"{place} holds other files than a graph, which would be replaced; name another folder")
        tensors = {name: getattr(self, name).contiguous() for name in _TENSORS} | csr_tensors(self.edges_MM)
        content = {
            "format": FORMAT,
            "checksum": tensors_checksum(tensors),
            "targets": [
                {"label": t.label, "kind": t.kind, "weight": t.weight, "token": t.token, "value": t.value}
                for t in self.targets
            ],
            **{name: getattr(self, name) for name in _PLAIN},
        }
        with whole_folder(place) as partial:
            (partial / "graph.json").write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
            save_file(tensors, partial / "graph.safetensors")

    @classmethod
    def load(cls, folder: str | Path) -> AttributionGraph:
        """Read what `save` wrote; `AnalysisError` where it is not that, or damaged."""
        folder = Path(folder)
        try:
            content = read_json(folder / "graph.json", AnalysisError)
            tensors = load_file(folder / "graph.safetensors")
        except FileNotFoundError as error:
            raise AnalysisError(f"{folder} is not a graph: there is no {Path(error.filename or '').name}") from error
        except SafetensorError as error:
            raise AnalysisError(f"{folder / 'graph.safetensors'} cannot be read: {error}") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise AnalysisError(f"{folder / 'graph.json'} is not a graph of format {FORMAT}")
        if content.get("checksum") != tensors_checksum(tensors):
            raise AnalysisError(f"{folder / 'graph.safetensors'} does not have the checksum that graph.json says")
        try:
            stored: dict[str, Any] = {name: tensors[name] for name in _TENSORS}
            stored |= {name: content[name] for name in _PLAIN}
            targets = [GraphTarget(**target) for target in content["targets"]]
            graph = cls(targets=targets, edges_MM=None, **stored)
            return evolve(graph, edges_MM=csr_from_tensors(tensors, (graph.num_nodes, graph.num_nodes)))
        except (KeyError, TypeError) as error:
            raise AnalysisError(f"{folder} is not a whole graph: {error}") from error


_TENSORS = ("latent_n3", "value_n", "target_KD", "constant_M", "left_out_M", "total_M")
_PLAIN = ("ids", "texts", "cuts", "position", "num_layers", "vocabulary_size", "num_active", "record")
