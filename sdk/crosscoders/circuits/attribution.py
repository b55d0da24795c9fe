"""Attribution graphs, computed: one row for each target and each latent visited, pulled back in batches.

A batch costs one backward pass over one prompt. Where there are more active latents than rows to spend, those that
matter most so far are visited next (Ameisen et al. 2025; the order of visiting and the scores are circuit-tracer's, so
that graphs agree).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from tqdm.auto import tqdm

from ..analysis.inputs import Input
from ..errors import AnalysisError
from ..models.linear import FINAL
from ..privacy.local import published
from .graph import AttributionGraph, GraphTarget
from .influence import influence, shares
from .numbering import numbering
from .prompt import ExplainedPrompt
from .replacement import ReplacementModel, Skip
from .rows import Rows, RowStore
from .targets import Asked, Target, find_targets

RANKED_EVERY = 4
"""Batches between two rankings of what to visit next."""


def attribution_graph(
    model: ReplacementModel,
    prompt: Input,
    *,
    targets: Sequence[Asked] | None = None,
    top_p: float = 0.95,
    max_targets: int = 10,
    position: int = -1,
    max_nodes: int | None = 7500,
    batch_size: int = 64,
    skip_positions: Skip = None,
    folder: str | Path | None = None,
    progress: bool = True,
    say: Callable[[str], None] | None = None,
) -> AttributionGraph:
    """The graph of one prompt: from tokens, errors and latents to active latents and `targets` at `position`.

    `targets` are tokens by id or text, differences (`Difference`) or directions (`Direction`); None for the most
    probable next tokens, up to the probability `top_p` and `max_targets`. `max_nodes` latents are visited at most, None
    for all; `batch_size` rows are pulled back at once. `skip_positions` are left out, None for those of
    beginning-of-sequence tokens. With `folder`, rows are kept there while they are computed, and a run that was stopped
    goes on from them; they are removed in the end. `say` is told the memory needed before it is.
    """
    if batch_size < 1 or (max_nodes is not None and max_nodes < 0):
        raise AnalysisError(f"batch_size must be at least 1 and max_nodes at least 0, not {batch_size} and {max_nodes}")
    tokens = model.row(prompt)
    explained = ExplainedPrompt(model, tokens, model.kept(tokens, skip_positions))
    length = explained.num_tokens
    if not -length <= position < length:
        raise AnalysisError(f"there is no position {position} in a prompt of {length} tokens")
    position %= length
    readout = model.adapter.readout()
    wanted = find_targets(
        targets, explained.linear.logits[position], readout, model.adapter, top_p=top_p, max_targets=max_targets
    )
    active = len(explained.latents)
    budget = active if max_nodes is None else min(max_nodes, active)
    if say is not None:
        need = explained.memory(budget + len(wanted), batch_size)
        say(
            f"{length} tokens, {active} active latents, {budget} of them visited; the graph needs up to "
            f"{need / 2**20:,.0f} MB besides the model"
        )
    settings = {
        "max_nodes": max_nodes,
        "batch_size": batch_size,
        "skipped": (~explained.keep_T).nonzero()[:, 0].tolist(),
    }
    store = RowStore.begin(
        explained.num_columns,
        {} if folder is None else {**settings, "fingerprint": _fingerprint(explained, wanted, position)},
        None if folder is None else Path(folder),
    )
    with tqdm(total=budget + len(wanted), desc="attribution", disable=not progress, leave=False) as bar:
        _Visit(explained, store, wanted, position, budget, batch_size, bar).run()
    graph = _assembled(explained, store, wanted, position, readout.vocabulary_size, _record(model, settings))
    store.forget()
    return graph


class _Visit:
    """Computes the rows of targets, then those of latents, the most important first where not all are to be."""

    def __init__(
        self,
        explained: ExplainedPrompt,
        store: RowStore,
        targets: Sequence[Target],
        position: int,
        budget: int,
        batch_size: int,
        bar: tqdm[Any],
    ) -> None:
        self.explained, self.store, self.targets, self.position = explained, store, targets, position
        self.budget, self.batch_size, self.bar = budget, batch_size, bar
        self.visited_N = torch.zeros(len(explained.latents), dtype=torch.bool)

    def run(self) -> None:
        """All rows that are not in the store yet."""
        if not self.store.parts:
            self._visit_targets()
        for part in self.store.parts:
            self.bar.update(len(part.node_R))
            self.visited_N[part.node_R[part.node_R < len(self.visited_N)]] = True
        everything = self.budget == len(self.visited_N)
        while (left := self.budget - int(self.visited_N.sum())) > 0:
            room = min(RANKED_EVERY * self.batch_size, left)
            # The order within a round is by layer, so that batches read one point and go back from there only.
            chosen = (~self.visited_N).nonzero()[:room, 0] if everything else self._most_important(room)
            rows = [self._rows_of(batch) for batch in self._batches(chosen)]
            self.store.add(Rows.joined(rows))
            self.visited_N[chosen] = True
            self.bar.update(len(chosen))

    def _visit_targets(self) -> None:
        columns = self.explained.num_columns
        vectors_KD = torch.stack([target.vector_D for target in self.targets])
        parts = []
        for start in range(0, len(self.targets), self.batch_size):
            vector_RD = vectors_KD[start : start + self.batch_size].to(self.explained.values[FINAL])
            position_R = torch.full((len(vector_RD),), self.position, device=vector_RD.device)
            node_R = torch.arange(columns + start, columns + start + len(vector_RD))
            parts.append(Rows.of(node_R, self.explained.bring(FINAL, vector_RD, position_R), columns))
        self.store.add(Rows.joined(parts))

    def _most_important(self, count: int) -> Tensor:
        """Latents not visited yet with most influence on the targets, as far as the rows so far tell."""
        rows = Rows.joined(self.store.parts)
        columns, size = self.explained.num_columns, self.explained.num_columns + len(self.targets)
        edges = rows.edges_RC.tocoo()
        edges_MM = sparse.csr_matrix((edges.data, (rows.node_R.numpy()[edges.row], edges.col)), shape=(size, size))
        weight_M = np.zeros(size)
        weight_M[columns:] = [target.weight for target in self.targets]
        score_N = torch.from_numpy(influence(shares(edges_MM), weight_M)[: len(self.visited_N)])
        score_N[self.visited_N] = -1.0
        return torch.sort(score_N, descending=True, stable=True).indices[:count].sort().values

    def _batches(self, node_n: Tensor) -> list[Tensor]:
        """Batches of latents that read one point each, and need as much of the prompt."""
        alike: dict[tuple[str, int], list[int]] = {}
        for node in node_n.tolist():
            alike.setdefault(self.explained.goes_with(node), []).append(node)
        return [
            torch.tensor(nodes[start : start + self.batch_size])
            for nodes in alike.values()
            for start in range(0, len(nodes), self.batch_size)
        ]

    def _rows_of(self, node_R: Tensor) -> Rows:
        latents = self.explained.latents
        at = node_R.to(latents.set_N.device)
        point = self.explained.read_of(int(node_R[0]))
        brought = self.explained.bring(point, self.explained.encoder_rows(at), latents.position_N[at])
        return Rows.of(node_R, brought, self.explained.num_columns)


def _assembled(
    explained: ExplainedPrompt,
    store: RowStore,
    targets: Sequence[Target],
    position: int,
    vocabulary_size: int,
    record: dict[str, Any],
) -> AttributionGraph:
    """The rows in the order of nodes, without the columns of latents that were not visited."""
    rows, latents = Rows.joined(store.parts), explained.latents
    columns, active, device = explained.num_columns, len(latents), latents.set_N.device
    selected = rows.node_R[rows.node_R < active].sort().values
    place = torch.full((columns + len(targets),), -1, dtype=torch.int64)
    kept = torch.cat([selected, torch.arange(active, columns + len(targets))])
    place[kept] = torch.arange(len(kept))
    # Columns keep their order, so rows stay sorted.
    row_R = place[rows.node_R].numpy()
    order_R = np.argsort(row_R, kind="stable")
    edges_RC, row_R = rows.edges_RC[order_R], row_R[order_R]
    column_E, count_R = place.numpy().astype(np.int32)[edges_RC.indices], np.diff(edges_RC.indptr)
    inside, left_out_M, values_E = column_E >= 0, np.zeros(len(kept)), edges_RC.data
    if not inside.all():
        row_E = np.repeat(np.arange(len(row_R)), count_R)
        np.add.at(left_out_M, row_R[row_E[~inside]], values_E[~inside].astype(np.float64))
        count_R = np.bincount(row_E[inside], minlength=len(row_R))
        column_E, values_E = column_E[inside], values_E[inside]
    count_M = np.zeros(len(kept), np.int64)
    count_M[row_R] = count_R
    start_M = np.concatenate([[0], np.cumsum(count_M)])
    edges_MM = sparse.csr_matrix((values_E, column_E, start_M), shape=(len(kept),) * 2)
    constant_M, total_M = torch.zeros(len(kept)), torch.zeros(len(kept))
    constant_M[place[rows.node_R]], total_M[place[rows.node_R]] = rows.constant_R, rows.total_R
    first = len(kept) - len(targets)
    adapter, ids = explained.model.adapter, explained.tokens.ids[0].tolist()
    return AttributionGraph(
        ids=ids,
        texts=adapter.token_texts(ids),
        cuts=list(explained.model.cuts),
        latent_n3=latents.place_N3[selected.to(device)].cpu(),
        value_n=latents.value_N[selected.to(device)].cpu(),
        targets=[
            GraphTarget(t.label, t.kind, t.weight, t.token, float(total_M[first + k]) + t.constant)
            for k, t in enumerate(targets)
        ],
        target_KD=torch.stack([target.vector_D.cpu() for target in targets]),
        position=position,
        edges_MM=edges_MM,
        constant_M=constant_M,
        left_out_M=torch.from_numpy(left_out_M).float(),
        total_M=total_M,
        num_layers=explained.model.num_layers,
        vocabulary_size=vocabulary_size,
        num_active=active,
        record=record,
    )


def _record(model: ReplacementModel, settings: dict[str, Any]) -> dict[str, Any]:
    made = [one.info.architecture.get("name", "") if one.info else "" for one in model.crosscoders]
    # Graphs and pages are passed on: what names something of this machine stays here.
    _, described = published({}, {"model": model.adapter.describe()})
    return {**described, "architectures": made, "settings": settings, "crosscoders": numbering(model.sets)}


def _fingerprint(explained: ExplainedPrompt, targets: Sequence[Target], position: int) -> str:
    """Of all that rows are made from, as far as this prompt shows it."""
    digest = hashlib.sha256(str(position).encode())
    latents = explained.latents
    tensors = [explained.tokens.ids, latents.place_N3, latents.value_N, *explained.values.values()]
    for tensor in [*tensors, *explained.errors.values(), *(target.vector_D for target in targets)]:
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
