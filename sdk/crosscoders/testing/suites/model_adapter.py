"""Rules of model adapters."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch

from ...errors import CrosscodersError, SiteError
from ...models.adapter import Edit, Generates, GivesLogits, ModelAdapter, ReadsOut, ReadsText
from ...models.capabilities import generates, gives_logits, lays_out_chats, reads_text, tokenized
from ...models.documents import Chat, Message, Text, TokenIds
from ...models.packing import documents_are_apart
from ...models.tokens import TokenBatch
from .base import Suite
from .linear import LinearRules


class ModelAdapterSuite(LinearRules, Suite):
    """Rules of a model adapter. Override the fixture `adapter`; a small random model is enough.

    Rows have ids from 5 to 24. The rules of what the adapter cannot do by `capabilities` are skipped.
    """

    capabilities: ClassVar[tuple[type, ...]] = (ReadsText, GivesLogits, Generates)
    """What the model can do beyond giving activations: all of a language model; `(ReadsText,)` for an encoder of text;
    `()` for a model that only gives activations of numbered samples."""
    keeps_documents_apart: ClassVar[bool] = True
    """False for adapters that cannot read several documents in a row (`TokenBatch.document`) each by itself."""
    tolerance: ClassVar[float] = 2e-4
    """The allowed difference between a batch and the same rows one by one."""

    @pytest.fixture
    def adapter(self) -> ModelAdapter:
        """The adapter under test."""
        raise NotImplementedError("override the fixture `adapter`")

    def _rows(self, adapter: ModelAdapter, lengths: tuple[int, ...] = (7, 4)) -> TokenBatch:
        """Right-padded rows of token ids between 5 and 25."""
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(5, 25, (len(lengths), max(lengths)), generator=generator)
        attention = torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]
        none = torch.zeros_like(attention)
        return TokenBatch(ids * attention, attention, none, none)

    def test_it_has_the_methods(self, adapter: ModelAdapter) -> None:
        assert isinstance(adapter, ModelAdapter)
        for capability in self.capabilities:
            assert isinstance(adapter, capability), f"it claims {capability.__name__} and lacks methods of it"

    def test_what_it_cannot_do_is_said_in_words(self, adapter: ModelAdapter) -> None:
        attempts: dict[type, Callable[[Any], object]] = {
            ReadsText: lambda able: able.tokenize(Text("hello")),
            GivesLogits: lambda able: able.logits(self._rows(adapter)),
            Generates: lambda able: able.decoder().advance(self._rows(adapter).ids, self._rows(adapter).attention),
        }
        for capability, attempt in attempts.items():
            if capability not in self.capabilities and isinstance(adapter, capability):
                with pytest.raises(CrosscodersError):
                    attempt(adapter)

    def test_description_is_json_with_the_model(self, adapter: ModelAdapter) -> None:
        description = json.loads(json.dumps(adapter.describe()))
        assert {"adapter", "model", "revision"} <= set(description)

    def test_every_point_gives_activations_of_its_width(self, adapter: ModelAdapter) -> None:
        rows, points = self._rows(adapter), list(adapter.points())
        assert points and len(set(points)) == len(points)
        found = adapter.activations(rows, points)
        assert set(found) == set(points)
        for point, activation in found.items():
            assert activation.shape == (*rows.ids.shape, adapter.width(point)), point
            assert not activation.requires_grad and bool(torch.isfinite(activation[rows.attention]).all()), point

    def test_a_point_alone_is_the_same_as_among_others(self, adapter: ModelAdapter) -> None:
        rows, points = self._rows(adapter), list(adapter.points())
        together = adapter.activations(rows, points)
        for point in points:
            assert torch.equal(adapter.activations(rows, [point])[point], together[point]), point

    def test_unknown_point_is_refused_by_name(self, adapter: ModelAdapter) -> None:
        with pytest.raises(SiteError, match="no_such_point"):
            adapter.width("no_such_point")
        with pytest.raises(SiteError, match="no_such_point"):
            adapter.activations(self._rows(adapter), ["no_such_point"])

    def test_padding_changes_nothing(self, adapter: ModelAdapter) -> None:
        rows = self._rows(adapter)
        together = adapter.activations(rows, list(adapter.points()))
        for row in range(len(rows.ids)):
            length = int(rows.attention[row].sum())
            own = rows.sequences(row, row + 1)
            alone = TokenBatch(
                own.ids[:, :length], own.attention[:, :length], own.bos[:, :length], own.special[:, :length]
            )
            for point, activation in adapter.activations(alone, list(adapter.points())).items():
                torch.testing.assert_close(
                    activation[0], together[point][row, :length], rtol=self.tolerance, atol=self.tolerance
                )

    def test_documents_of_a_row_are_as_alone(self, adapter: ModelAdapter) -> None:
        if not self.keeps_documents_apart:
            pytest.skip("rows of this adapter hold one document")
        rows = self._rows(adapter, (9,))
        document = torch.tensor([[0] * 4 + [1] * 2 + [2] * 3])
        packed = TokenBatch(rows.ids, rows.attention, rows.bos, rows.special, {}, document)
        for point in adapter.points():
            assert documents_are_apart(
                lambda tokens, point=point: adapter.activations(tokens, [point])[point],  # type: ignore[misc]
                packed,
            ), point

    def test_tokens_have_texts(self, adapter: ModelAdapter) -> None:
        reading = self._reading(adapter)
        texts = reading.token_texts([5, 6, 7])
        assert len(texts) == 3 and all(isinstance(text, str) for text in texts)
        assert isinstance(reading.text([5, 6]), str)
        assert reading.vocabulary() == reading.vocabulary()

    def test_ready_ids_pass_through(self, adapter: ModelAdapter) -> None:
        tokens = tokenized(adapter, TokenIds((5, 6, 7)))
        assert list(tokens.ids) == [5, 6, 7] and len(tokens.bos) == len(tokens.special) == 3

    def test_chats_are_laid_out_or_refused(self, adapter: ModelAdapter) -> None:
        chat = Chat((Message("user", "hello"), Message("assistant", "world")))
        if lays_out_chats(adapter):
            assert len(tokenized(adapter, chat).ids) > 2
        else:
            with pytest.raises(CrosscodersError):
                tokenized(adapter, chat)

    def _reading(self, adapter: ModelAdapter) -> ReadsText:
        if ReadsText not in self.capabilities:
            pytest.skip("it reads no text")
        return reads_text(adapter, "this test")

    def _predicting(self, adapter: ModelAdapter) -> GivesLogits:
        if GivesLogits not in self.capabilities:
            pytest.skip("it gives no next-token logits")
        return gives_logits(adapter, "this test")

    def _writing(self, adapter: ModelAdapter) -> Generates:
        if Generates not in self.capabilities:
            pytest.skip("it does not write text")
        return generates(adapter, "this test")

    def test_replacing_activations_by_themselves_changes_nothing(self, adapter: ModelAdapter) -> None:
        model = self._predicting(adapter)
        rows = self._rows(adapter)
        plain = model.logits(rows)
        for point in adapter.points():
            own = adapter.activations(rows, [point])[point]
            edited = model.logits(rows, [Edit.replace(point, own)])
            torch.testing.assert_close(edited[rows.attention], plain[rows.attention], msg=point)

    def test_edits_take_effect_and_leave_no_trace(self, adapter: ModelAdapter) -> None:
        model = self._predicting(adapter)
        rows = self._rows(adapter)
        plain = model.logits(rows)
        for point in adapter.points():
            # Another one at each position: keys that all move alike are attended to as before.
            length, width = rows.ids.shape[1], adapter.width(point)
            shift = torch.linspace(-2.0, 2.0, length * width).reshape(length, width)
            edited = model.logits(rows, [Edit.add(point, shift)])
            assert not torch.allclose(edited[rows.attention], plain[rows.attention]), point
        assert torch.equal(model.logits(rows), plain)

    def test_values_are_broadcast_and_edits_do_not_linger(self, adapter: ModelAdapter) -> None:
        model = self._predicting(adapter)
        rows, points = self._rows(adapter), list(adapter.points())
        before = adapter.activations(rows, points)
        model.logits(rows, [Edit.replace(points[-1], torch.zeros(adapter.width(points[-1])))])
        after = adapter.activations(rows, points)
        for point in points:
            assert torch.equal(before[point], after[point]), point

    def test_decoder_agrees_with_the_whole_forward_pass(self, adapter: ModelAdapter) -> None:
        model, writing = self._predicting(adapter), self._writing(adapter)
        rows = self._rows(adapter, (6, 6))
        whole = model.logits(rows)
        decoder = writing.decoder()
        first = decoder.advance(rows.ids[:, :3], rows.attention[:, :3])
        torch.testing.assert_close(first, whole[:, 2], rtol=self.tolerance, atol=self.tolerance)
        for position in range(3, 6):
            next_logits = decoder.advance(
                rows.ids[:, position : position + 1], rows.attention[:, position : position + 1]
            )
            torch.testing.assert_close(next_logits, whole[:, position], rtol=self.tolerance, atol=self.tolerance)

    def test_decoder_makes_edits_on_every_token(self, adapter: ModelAdapter) -> None:
        model, writing = self._predicting(adapter), self._writing(adapter)
        rows = self._rows(adapter, (6, 6))
        for point in adapter.points():
            edits = [Edit.add(point, torch.linspace(-2.0, 2.0, adapter.width(point)))]
            whole = model.logits(rows, edits)
            decoder = writing.decoder(edits)
            found = [decoder.advance(rows.ids[:, :3], rows.attention[:, :3])]
            found += [decoder.advance(rows.ids[:, t : t + 1], rows.attention[:, t : t + 1]) for t in range(3, 6)]
            torch.testing.assert_close(
                torch.stack(found, dim=1), whole[:, 2:], rtol=self.tolerance, atol=self.tolerance, msg=point
            )
        plain = model.logits(rows)[:, 2]
        again = writing.decoder().advance(rows.ids[:, :3], rows.attention[:, :3])
        torch.testing.assert_close(again, plain, rtol=self.tolerance, atol=self.tolerance)

    def test_read_out_is_linear(self, adapter: ModelAdapter) -> None:
        model = self._predicting(adapter)
        if not isinstance(adapter, ReadsOut):
            pytest.skip("it offers no read-out")
        point = list(adapter.points())[-1]
        vocabulary = model.logits(self._rows(adapter)).shape[-1]
        generator = torch.Generator().manual_seed(0)
        direction = torch.randn(2, adapter.width(point), generator=generator)
        both = adapter.read_out(point, direction)
        assert both.shape == (2, vocabulary)
        joined = adapter.read_out(point, (direction[:1] - 3 * direction[1:]))
        torch.testing.assert_close(joined, both[:1] - 3 * both[1:], rtol=self.tolerance, atol=self.tolerance)
        assert not bool(adapter.read_out(point, torch.zeros(1, adapter.width(point))).any())

    def test_left_padding_changes_no_logits(self, adapter: ModelAdapter) -> None:
        writing = self._writing(adapter)
        rows = self._rows(adapter, (6, 3))
        shifted_ids, shifted_attention = rows.ids.clone(), rows.attention.clone()
        shifted_ids[1], shifted_attention[1] = rows.ids[1].roll(3), rows.attention[1].roll(3)
        alone = writing.decoder().advance(rows.ids[1:, :3], rows.attention[1:, :3])
        padded = writing.decoder().advance(shifted_ids, shifted_attention)
        torch.testing.assert_close(padded[1:], alone, rtol=self.tolerance, atol=self.tolerance)
