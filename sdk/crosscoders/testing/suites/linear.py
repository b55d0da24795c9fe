"""Rules of adapters that linearise their models (`Linearisable`)."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import Tensor

from ...errors import ConfigError
from ...models.adapter import Edit, GivesLogits, ModelAdapter
from ...models.linear import EMBEDDING, FINAL, Linear, Linearisable, one_row

IDS = [5, 9, 12, 7, 8, 14]


class LinearRules:
    """Rules that hold where an adapter is `Linearisable`, of any causal model that it does not refuse."""

    capabilities: ClassVar[tuple[type, ...]]
    refuses_linearising: ClassVar[str] = ""
    """A pattern of the message with which the model under test is refused; empty where it is linearised."""
    linear_tolerance: ClassVar[float] = 1e-5
    """The allowed difference between a derivative and what a move of any size does, as a share of the move."""

    def _linear(self, adapter: ModelAdapter) -> tuple[Linearisable, list[str], list[str]]:
        """The adapter, the points of MLPs, and those that MLPs read."""
        if not isinstance(adapter, Linearisable) or GivesLogits not in self.capabilities:
            pytest.skip("it does not linearise")
        if self.refuses_linearising:
            pytest.skip(f"refused: {self.refuses_linearising}")
        points = list(adapter.points())
        return adapter, [p for p in points if p.endswith(".mlp")], [p for p in points if p.endswith(".mlp_input")]

    def test_models_that_cannot_be_linearised_are_refused_by_name(self, adapter: ModelAdapter) -> None:
        if not self.refuses_linearising:
            pytest.skip("it is not refused")
        assert isinstance(adapter, Linearisable)
        for _ in range(2):
            with pytest.raises(ConfigError, match=self.refuses_linearising):
                adapter.linearise(one_row(IDS), cuts={})
            with pytest.raises(ConfigError, match=self.refuses_linearising):
                adapter.hold(one_row(IDS))

    def test_linearising_changes_no_value(self, adapter: ModelAdapter) -> None:
        linearisable, mlps, reads = self._linear(adapter)
        linear = linearisable.linearise(one_row(IDS), cuts={p: {} for p in mlps}, reads=reads)
        assert list(adapter.points())[-1] == FINAL
        wanted = [EMBEDDING, *mlps, *reads, FINAL]
        own = linearisable.activations(one_row(IDS), wanted)
        assert set(linear.values) == set(wanted)
        for point in wanted:
            assert torch.equal(linear.values[point], own[point][0]), point
        assert torch.equal(linear.logits, linearisable.logits(one_row(IDS))[0])

    def test_held_model_without_edits_is_the_model(self, adapter: ModelAdapter) -> None:
        linearisable, _, _ = self._linear(adapter)
        held, plain = linearisable.hold(one_row(IDS)), linearisable.logits(one_row(IDS))
        for attention, norms in ((True, True), (True, False), (False, True), (False, False)):
            found = held.logits(attention=attention, norms=norms)
            torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-4)

    def test_moves_of_any_size_do_what_the_derivatives_say(self, adapter: ModelAdapter) -> None:
        linearisable, mlps, reads = self._linear(adapter)
        linear = linearisable.linearise(one_row(IDS), cuts={p: {} for p in mlps}, reads=reads)
        generator = torch.Generator().manual_seed(1)
        moves = {}
        for p in (EMBEDDING, *mlps):
            own_TD = linear.values[p]
            moves[p] = 3 * own_TD.std() * torch.randn(own_TD.shape, generator=generator).to(own_TD.device)
        clean = _values(linear, [*reads, FINAL], [])
        moved = _values(linear, [*reads, FINAL], [Edit.replace(p, linear.values[p] + m) for p, m in moves.items()])
        for point in (*reads, FINAL):
            step_TD = moved[point] - clean[point]
            vector_RD = torch.randn(3, step_TD.shape[1], generator=generator).to(step_TD.device)
            position_R = torch.tensor([5, 2, 0])
            found_R = (vector_RD * step_TD[position_R]).sum(dim=1)
            pulled = linear.pull(point, vector_RD, position_R)
            said_R = torch.stack([torch.einsum("rtd,td->r", pulled[p], moves[p]) for p in pulled]).sum(dim=0)
            bound = self.linear_tolerance * float(vector_RD.norm(dim=1).max() * step_TD.norm(dim=1).max())
            torch.testing.assert_close(said_R, found_R, rtol=0, atol=bound, msg=point)

    def test_nothing_is_pulled_from_later_places(self, adapter: ModelAdapter) -> None:
        linearisable, mlps, reads = self._linear(adapter)
        linear = linearisable.linearise(one_row(IDS), cuts={p: {} for p in mlps}, reads=reads)
        for place, point in enumerate(reads):
            vector_RD = torch.ones(2, adapter.width(point))
            pulled = linear.pull(point, vector_RD, torch.tensor([1, 3]))
            assert set(pulled) <= {EMBEDDING, *mlps[:place]}
            for back_RTD in pulled.values():
                assert not bool(back_RTD[0, 2:].any()) and not bool(back_RTD[1, 4:].any())

    def test_skip_maps_carry_derivatives_past_a_cut(self, adapter: ModelAdapter) -> None:
        linearisable, mlps, reads = self._linear(adapter)
        read, cut = reads[-1], mlps[-1]
        generator = torch.Generator().manual_seed(2)
        W_DD = torch.randn(adapter.width(cut), adapter.width(read), generator=generator) / adapter.width(read) ** 0.5
        cuts: dict[str, dict[str, Tensor]] = {p: {} for p in mlps}
        plain = linearisable.linearise(one_row(IDS), cuts=cuts, reads=reads)
        W_DD = W_DD.to(plain.logits.device)
        skipping = linearisable.linearise(one_row(IDS), cuts={**cuts, cut: {read: W_DD}}, reads=reads)
        assert torch.equal(plain.logits, skipping.logits)
        vector_RD = torch.randn(1, adapter.width(FINAL), generator=generator)
        last = torch.tensor([len(IDS) - 1])
        direct, found = plain.pull(FINAL, vector_RD, last), skipping.pull(FINAL, vector_RD, last)
        through = plain.pull(read, direct[cut][0] @ W_DD, torch.arange(len(IDS)))
        said_TD = direct[EMBEDDING][0] + through[EMBEDDING].sum(dim=0)
        torch.testing.assert_close(found[EMBEDDING][0], said_TD, rtol=1e-3, atol=1e-4 * float(said_TD.abs().max()))

    def test_logits_are_read_out(self, adapter: ModelAdapter) -> None:
        linearisable, _, _ = self._linear(adapter)
        readout, row = linearisable.readout(), one_row(IDS)
        final_TD = linearisable.activations(row, [FINAL])[FINAL][0]
        logits_TV = linearisable.logits(row)[0]
        assert readout.vocabulary_size == logits_TV.shape[1]
        ids = torch.arange(readout.vocabulary_size)
        said_TV = final_TD @ readout.rows(ids).T + readout.constants(ids)
        torch.testing.assert_close(readout.mean_row(), readout.rows(ids).mean(dim=0), rtol=1e-4, atol=1e-6)
        if readout.cap is not None:
            said_TV = readout.cap * (said_TV / readout.cap).tanh()
        torch.testing.assert_close(said_TV, logits_TV, rtol=1e-3, atol=1e-4)

    def test_linearising_leaves_no_trace(self, adapter: ModelAdapter) -> None:
        linearisable, mlps, _ = self._linear(adapter)
        plain = linearisable.logits(one_row(IDS))
        linear = linearisable.linearise(one_row(IDS), cuts={p: {} for p in mlps})
        linear.held.logits([Edit.replace(EMBEDDING, torch.zeros(adapter.width(EMBEDDING)))])
        assert torch.equal(linearisable.logits(one_row(IDS)), plain)

    def test_several_rows_or_padding_are_refused(self, adapter: ModelAdapter) -> None:
        linearisable, _, _ = self._linear(adapter)
        rows = one_row(IDS).mapped(lambda tensor: tensor.expand(2, -1))
        with pytest.raises(ConfigError, match="one row"):
            linearisable.linearise(rows, cuts={})


def _values(linear: Linear, points: list[str], edits: list[Edit]) -> dict[str, Tensor]:
    """Activations (T, D) of the held model at `points`, with `edits`."""
    seen: dict[str, Tensor] = {}

    def recorder(point: str) -> Edit:
        return Edit(point, lambda activation: seen.setdefault(point, activation[0].clone())[None])

    linear.held.logits([*edits, *(recorder(point) for point in points)])
    return seen
