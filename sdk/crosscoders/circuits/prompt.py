"""One prompt taken apart: active latents, errors, embeddings and constants, and what each gives to any place.

At every cut m the model's activation is Σ f·d (latents) + b (bias) + S x (skip) + ε (error). With patterns and
denominators held, whatever a direction w at a point finds there is the sum of what all of these bring it:

    ⟨w, x⟩ = Σ latents + Σ errors + Σ embeddings + constants

The constants are the decoder's biases, everything at positions left out, and the model's own biases of norms and
attention, which are what the held model gives where its embeddings and cuts are all zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from attrs import frozen
from torch import Tensor

from ..models.adapter import Edit
from ..models.linear import EMBEDDING, FINAL, Linear
from ..models.tokens import TokenBatch
from .prefixes import Prefixes
from .replacement import ReplacementModel


@frozen(eq=False)
class ActiveLatents:
    """The active latents of a prompt, N of them, ordered by layer, position and index."""

    layer_N: Tensor
    position_N: Tensor
    index_N: Tensor
    """The number of the latent within the layer that it reads."""
    value_N: Tensor
    set_N: Tensor
    """Which of the model's sets it is of."""
    local_N: Tensor
    """Its number in that set."""

    def __len__(self) -> int:
        return len(self.layer_N)

    @property
    def place_N3(self) -> Tensor:
        """Layer, position and index."""
        return torch.stack([self.layer_N, self.position_N, self.index_N], dim=1)


@frozen(eq=False)
class Brought:
    """What R directions at places of a prompt are brought by everything before."""

    columns_RC: Tensor
    """By column: latents, errors (cut by cut), embeddings, as far as they come before."""
    number_C: Tensor
    """Which of all columns these are, ascending; the others bring nothing."""
    constant_R: Tensor
    total_R: Tensor
    """⟨w, x⟩ itself: the sum of all of these, computed forwards."""


@frozen(eq=False)
class _Writes:
    """All that is written at one cut, by position."""

    at_P: list[slice | Tensor]
    """The places of latents in the order of positions, layers and indices."""
    rows_P: list[Tensor]
    """f·d of those latents, (D, n there)."""
    rest_TD2: Tensor
    """The error and the constant."""


class ExplainedPrompt:
    """A prompt, linearised, with everything that a graph is made of."""

    def __init__(self, model: ReplacementModel, tokens: TokenBatch, keep_T: Tensor) -> None:
        self.model, self.tokens, self.keep_T = model, tokens, keep_T
        reads = sorted({one.read for one in model.sets})
        cuts: dict[str, Mapping[str, Tensor]] = {point: model.skips.get(point, {}) for point in model.cuts}
        linearise = partial(model.adapter.linearise, cuts=cuts, reads=reads)
        self.linear: Linear = linearise(tokens)
        self.prefixes = Prefixes(tokens, self.linear, linearise)
        self.values = {point: value.float() for point, value in self.linear.values.items()}
        self.latents = self._encode()
        self._reads: list[str] = [model.sets[number].read for number in self.latents.set_N.tolist()]
        self._positions: list[int] = self.latents.position_N.tolist()
        by_position = torch.sort(self.latents.position_N, stable=True).indices
        # In this order the latents that write at a cut are next to each other, for one position.
        self._place_N = torch.empty_like(by_position)
        self._place_N[by_position] = torch.arange(len(by_position), device=by_position.device)
        order = model.points
        first = torch.tensor([min(map(order.index, one.writes)) for one in model.sets], device=by_position.device)
        self._first_write_N = first[self.latents.set_N]
        self._writes: dict[str, _Writes] = {}
        self._known_sources: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}
        self.errors: dict[str, Tensor] = {}
        self._decode()
        self._zero = self._without_inputs(reads)

    @property
    def num_tokens(self) -> int:
        """T."""
        return self.tokens.ids.shape[1]

    @property
    def num_columns(self) -> int:
        """Latents, errors and embeddings together."""
        return len(self.latents) + (len(self.model.cuts) + 1) * self.num_tokens

    def memory(self, num_rows: int, batch_size: int) -> int:
        """Bytes that a graph of `num_rows` rows takes at most: edges, decoder rows, and one batch pulled back."""
        decoder = sum(rows.nbytes for writes in self._writes.values() for rows in writes.rows_P)
        width = max(value.shape[1] for value in self.values.values())
        pulled = 4 * batch_size * ((len(self.model.cuts) + 1) * self.num_tokens * width + self.num_columns)
        return decoder + pulled + 8 * num_rows * self.num_columns

    def read_of(self, node: int) -> str:
        """The point that a latent reads."""
        return self._reads[node]

    def goes_with(self, node: int) -> tuple[str, int]:
        """What latents of one batch have in common: the point that they read, and how much of the prompt they need."""
        return self._reads[node], self.prefixes.length(self._positions[node])

    def encoder_rows(self, node_R: Tensor) -> Tensor:
        """Encoder rows (R, D) of active latents that read one point."""
        latents, point = self.latents, self.read_of(int(node_R[0]))
        numbers = [number for number, one in enumerate(self.model.sets) if one.read == point]
        if len(numbers) == 1:
            return self.model.sets[numbers[0]].encoder_rows(latents.local_N[node_R]).float()
        rows_RD = self.values[point].new_zeros(len(node_R), self.values[point].shape[1])
        for number in numbers:
            mine_R = latents.set_N[node_R] == number
            rows_RD[mine_R] = self.model.sets[number].encoder_rows(latents.local_N[node_R[mine_R]]).float()
        return rows_RD

    def bring(self, point: str, vector_RD: Tensor, position_R: Tensor) -> Brought:
        """What all that lies before brings to directions at positions of a point."""
        pulled = self.prefixes.pull(point, vector_RD, position_R)
        active, length = len(self.latents), self.num_tokens
        count = int(position_R.max()) + 1  # what comes later in the prompt brings nothing
        latents_RN = vector_RD.new_zeros(len(vector_RD), active)
        constant_R = (vector_RD * self._zero[point][position_R]).sum(dim=1)
        at_T = torch.arange(count, device=vector_RD.device)
        source_n, place_n = self._sources(point, count)
        columns, numbers = list[Tensor](), [source_n]
        for number, cut in enumerate(self.model.cuts):
            if cut not in pulled:
                continue
            writes, back_TRD = self._writes[cut], pulled[cut][:, :count].transpose(0, 1)
            rest_TR2 = back_TRD @ writes.rest_TD2[:count]
            columns.append(rest_TR2[:, :, 0].T)
            numbers.append(active + number * length + at_T)
            constant_R += rest_TR2[:, :, 1].sum(dim=0)
            for at, back_RD, rows_Dn in zip(writes.at_P, back_TRD.unbind(), writes.rows_P):  # noqa: B905  the first
                if isinstance(at, slice):
                    latents_RN[:, at].addmm_(back_RD, rows_Dn)
                else:
                    latents_RN[:, at] += back_RD @ rows_Dn
        if EMBEDDING in pulled:
            back_TRD = pulled[EMBEDDING][:, :count].transpose(0, 1)
            columns.append((back_TRD @ self.values[EMBEDDING][:count, :, None])[:, :, 0].T)
            numbers.append(active + len(self.model.cuts) * length + at_T)
        columns_RC = torch.cat([latents_RN[:, place_n], *columns], dim=1)
        total_R = (vector_RD * self.values[point][position_R]).sum(dim=1)
        return Brought(columns_RC, torch.cat(numbers), constant_R, total_R)

    # -- private ------------------------------------------------------------------------------------------------

    def _sources(self, point: str, count: int) -> tuple[Tensor, Tensor]:
        """The latents that write before a point, within the first `count` tokens, and their places by position."""
        if (point, count) not in self._known_sources:
            early_N = self._first_write_N < self.model.points.index(point)
            source_n = (early_N & (self.latents.position_N < count)).nonzero()[:, 0]
            self._known_sources[point, count] = source_n, self._place_N[source_n]
        return self._known_sources[point, count]

    def _encode(self) -> ActiveLatents:
        parts: list[list[Tensor]] = []
        for number, one in enumerate(self.model.sets):
            found = one.encode(self.values[one.read])
            found = found.select(self.keep_T[found.token_N])
            of_set = torch.full_like(found.token_N, number)
            layer = torch.full_like(found.token_N, one.layer)
            parts.append(
                [layer, found.token_N, found.latent_N + one.first, found.value_N.float(), of_set, found.latent_N]
            )
        columns = [torch.cat(column) for column in zip(*parts, strict=True)]
        order = torch.arange(len(columns[0]), device=columns[0].device)
        for key in (2, 1, 0):
            order = order[torch.sort(columns[key][order], stable=True).indices]
        return ActiveLatents(*(column[order] for column in columns))

    def _decode(self) -> None:
        latents, model, length = self.latents, self.model, self.num_tokens
        pieces: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for number, one in enumerate(model.sets):
            node_n = (latents.set_N == number).nonzero().squeeze(1)
            for point, rows_nD in one.decoder_rows(latents.local_N[node_n]).items():
                pieces.setdefault(point, []).append((node_n, latents.value_N[node_n, None] * rows_nD.float()))
        keep_T1 = self.keep_T[:, None]
        for cut in model.cuts:
            rest_TD = self.values[cut] - self._skipped(cut, self.values)
            bias_D = model.biases[cut].float() if cut in model.biases else torch.zeros_like(rest_TD[0])
            constant_TD = torch.where(keep_T1, bias_D, rest_TD)
            error_TD = torch.where(keep_T1, rest_TD - bias_D, 0.0)
            none = (latents.set_N[:0], rest_TD[:0])
            node_n, rows_nD = (torch.cat(part) for part in zip(none, *pieces.get(cut, []), strict=True))
            error_TD = error_TD.index_add(0, latents.position_N[node_n], -rows_nD)
            place_n, order_n = torch.sort(self._place_N[node_n])
            counts = torch.bincount(latents.position_N[node_n], minlength=length).tolist()
            self._writes[cut] = _Writes(
                [_as_slice(place_p) for place_p in torch.split(place_n, counts)],
                [rows_pD.T for rows_pD in torch.split(rows_nD[order_n], counts)],
                torch.stack([error_TD, constant_TD], dim=2),
            )
            self.errors[cut] = error_TD

    def _skipped(self, cut: str, values: Mapping[str, Tensor]) -> Tensor:
        total = torch.zeros((), device=self.keep_T.device)
        for read, W in self.model.skips.get(cut, {}).items():
            total = total + values[read].float() @ W.float().T
        return total

    def _without_inputs(self, reads: list[str]) -> dict[str, Tensor]:
        """Activations of the held model whose embeddings and cuts are zero: what its own biases alone give."""
        seen: dict[str, Tensor] = {}
        order = self.model.points
        skip_reads = [read for maps in self.model.skips.values() for read in maps]
        edits = []
        for point in sorted({EMBEDDING, *reads, *skip_reads, *self.model.cuts, FINAL}, key=order.index):

            def at(activation: Tensor, point: str = point) -> Tensor:
                given = torch.zeros_like(activation) if point == EMBEDDING else activation
                seen[point] = given[0].float()
                if point not in self.model.cuts:
                    return given
                return torch.zeros_like(given) + self._skipped(point, seen).to(given)

            edits.append(Edit(point, at))
        self.linear.held.logits(edits)
        return seen


def _as_slice(place_n: Tensor) -> slice | Tensor:
    """Ascending places that follow each other as a slice, which is written to without a copy."""
    count = len(place_n)
    if not count:
        return slice(0, 0)
    first, last = int(place_n[0]), int(place_n[-1])
    return slice(first, last + 1) if last - first + 1 == count else place_n
