"""Conformance suites: one abstract class of tests for each kind of component.

First-party components run the same suites. A rule that a component rightly breaks is named in `expected_failures`
with the reason; if it then passes, that fails too, so that excuses do not outlive their cause.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from ..checkpoint import CheckpointInfo
from ..configs import AnalysisChoice, ArchitectureChoice, Choice, LossChoice, TokenSourceChoice, structure, unstructure
from ..crosscoder import Crosscoder
from ..documents import Chat, Text, TokenIds
from ..errors import ConfigError, CrosscodersError, SiteError
from ..gates import TopKGate
from ..initialise import initialise
from ..losses import StepContext
from ..plugins import Registry, get_registry
from ..protocols import Edit, ModelAdapter, TokenBatch
from ..reports import Report
from ..sites import Site
from ..study import Study
from ..training import TrainingConfig, evaluate, fit
from .worlds import DiffWorld, DiffWorldConfig

SMALL_WORLD = DiffWorldConfig(
    width=16, num_shared=12, num_weak=0, num_shifted=0, num_only_a=3, num_only_b=3, min_rate=0.03, max_rate=0.1
)


class _Suite:
    """What all suites share."""

    expected_failures: ClassVar[Mapping[str, str]] = {}
    """Test name to reason."""

    @pytest.fixture
    def registry(self) -> Registry:
        """Override to test a plugin that is not installed."""
        return get_registry()

    @pytest.fixture(autouse=True)
    def _excused(self, request: pytest.FixtureRequest) -> None:
        name = request.node.originalname
        if name in self.expected_failures:
            request.applymarker(pytest.mark.xfail(reason=self.expected_failures[name], strict=True))


class _NamedSuite(_Suite):
    """For components that are chosen by name."""

    name: ClassVar[str]
    """The component's name."""
    options: ClassVar[Mapping[str, Any]] = {}
    """Options to build it with; choose small ones."""
    choice: ClassVar[type[Choice]]

    def _choice(self, registry: Registry) -> Any:
        return structure({"name": self.name, **self.options}, self.choice, registry=registry)

    def test_options_survive_a_round_trip(self, registry: Registry) -> None:
        choice = self._choice(registry)
        again = structure(json.loads(json.dumps(unstructure(choice))), self.choice, registry=registry)
        assert again == choice

    def test_unknown_option_is_refused_by_name(self, registry: Registry) -> None:
        with pytest.raises(ConfigError, match="no_such_option"):
            structure({"name": self.name, **self.options, "no_such_option": 1}, self.choice, registry=registry)

    def test_listing_it_does_not_import_torch(self, registry: Registry) -> None:
        plugin = registry.catalog(self.choice.kind)[self.name].provider.plugin
        code = (
            "import sys; from crosscoders import get_registry; "
            f"names = [p['plugin'] for p in get_registry().listing()['plugins']]; "
            f"assert {plugin!r} in names, names; assert 'torch' not in sys.modules"
        )
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stderr

    def test_it_has_a_summary(self, registry: Registry) -> None:
        assert registry.catalog(self.choice.kind)[self.name].spec.summary


class ArchitectureSuite(_NamedSuite):
    """Rules of an architecture. `sites` must be sites that it accepts; give them different widths if it can."""

    choice = ArchitectureChoice
    sites: ClassVar[tuple[Site, ...]] = (Site("m/a", 6), Site("m/b", 4), Site("n/a", 6))

    @pytest.fixture
    def crosscoder(self, registry: Registry) -> Crosscoder:
        """A crosscoder of this architecture with random weights, which keeps 3 latents per token."""
        choice = self._choice(registry)
        made: Crosscoder = choice.offer(registry).spec.module.load()(choice.build(self.sites, registry=registry))
        initialise(made, decoder_norm=0.7, same_across_sites=False, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        made.normaliser.set_mean_norms(torch.linspace(1.0, 3.0, len(self.sites)))
        made.gate = TopKGate(3)
        made.info = CheckpointInfo.of_architecture(choice, registry=registry)
        return made

    def _input(self, num_tokens: int = 9) -> Tensor:
        width = sum(site.width for site in self.sites)
        return torch.randn(num_tokens, width, generator=torch.Generator().manual_seed(2))

    def test_wiring_has_the_sites_it_was_given(self, crosscoder: Crosscoder) -> None:
        assert crosscoder.sites == self.sites
        assert crosscoder.num_latents == crosscoder.wiring.num_latents > 0

    def test_reconstruction_has_the_width_of_the_written_sites(self, crosscoder: Crosscoder) -> None:
        x_BX = self._input()
        assert crosscoder(x_BX).shape == (len(x_BX), crosscoder.written.width)

    def test_an_empty_batch_is_fine(self, crosscoder: Crosscoder) -> None:
        assert crosscoder(self._input(0)).shape == (0, crosscoder.written.width)

    def test_decoding_dense_and_sparse_latents_agrees(self, crosscoder: Crosscoder) -> None:
        x_BX = self._input()
        latents = crosscoder.encode(x_BX)
        torch.testing.assert_close(crosscoder.decode(latents, x_BX), crosscoder.decode(latents.dense(), x_BX))

    def test_sparse_values_and_gradients_equal_dense_ones(self, crosscoder: Crosscoder) -> None:
        crosscoder = crosscoder.double()
        x_BX = crosscoder.normaliser(self._input()).double()
        latents = crosscoder.encode(self._input().double())
        mask_BF = latents.dense() > 0
        gradients = []
        for sparse in (True, False):
            crosscoder.zero_grad()
            if sparse:
                x_hat = crosscoder.decode_normalised(latents, x_BX, value_N=crosscoder.values(x_BX, latents))
            else:
                pre_BF = torch.cat([_dense_pre(crosscoder, x_BX, g) for g in range(len(crosscoder.wiring.groups))], 1)
                x_hat = crosscoder.decode_normalised(pre_BF * mask_BF, x_BX)
            torch.autograd.backward((crosscoder.target(x_BX) - x_hat).square().sum())
            gradients.append({n: p.grad.clone() for n, p in crosscoder.named_parameters() if p.grad is not None})
        assert gradients[0].keys() == gradients[1].keys()
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(gradient, gradients[1][name], rtol=2e-6, atol=2e-6, msg=name)

    def test_latents_see_only_the_sites_they_read(self, crosscoder: Crosscoder) -> None:
        x_BX = self._input()
        before_BF = crosscoder.pre_activations(x_BX)
        for group in crosscoder.wiring.groups:
            changed = x_BX.clone()
            for site in self.sites:
                if site.name not in group.reads:
                    changed[:, crosscoder.layout.slices[site.name]] += 1.0
            latents = crosscoder.wiring.latent_slices[group.name]
            assert torch.equal(crosscoder.pre_activations(changed)[:, latents], before_BF[:, latents])

    def test_latents_write_only_the_sites_they_write(self, crosscoder: Crosscoder) -> None:
        norms_FS = crosscoder.decoder_norms()
        for group in crosscoder.wiring.groups:
            for i, name in enumerate(crosscoder.written.names):
                zero = norms_FS[crosscoder.wiring.latent_slices[group.name], i] == 0
                assert bool(zero.all()) != (name in group.writes)

    def test_folded_weights_take_and_give_raw_units(self, crosscoder: Crosscoder) -> None:
        x_BX, folded = self._input(), crosscoder.folded()
        for number, group in enumerate(crosscoder.wiring.groups):
            latents = crosscoder.wiring.latent_slices[group.name]
            raw = x_BX[:, crosscoder.layout.columns(group.reads)] @ folded[f"W_enc.{number}"].T
            expected = crosscoder.pre_activations(crosscoder.normalised(x_BX))[:, latents]
            torch.testing.assert_close(raw + folded["b_enc_F"][latents], expected, rtol=1e-4, atol=1e-5)

    def test_saving_and_loading_is_bit_exact(self, crosscoder: Crosscoder, registry: Registry, tmp_path: Path) -> None:
        x_BX = self._input()
        crosscoder.save_pretrained(tmp_path / "saved")
        again = Crosscoder.from_pretrained(tmp_path / "saved", registry=registry)
        assert torch.equal(again.encode(x_BX).dense(), crosscoder.encode(x_BX).dense())
        assert torch.equal(again(x_BX), crosscoder(x_BX))
        assert type(again) is type(crosscoder)

    def test_wrong_width_is_refused(self, crosscoder: Crosscoder) -> None:
        with pytest.raises(SiteError, match="width"):
            crosscoder.encode(self._input()[:, 1:])


def _dense_pre(crosscoder: Crosscoder, x_BX: Tensor, number: int) -> Tensor:
    group = crosscoder.wiring.groups[number]
    latents = crosscoder.wiring.latent_slices[group.name]
    x_read = x_BX[:, crosscoder.layout.columns(group.reads)]
    return torch.nn.functional.linear(x_read, crosscoder.W_enc[number], crosscoder.b_enc_F[latents])


class LossSuite(_NamedSuite):
    """Rules of a loss, on a small planted world."""

    choice = LossChoice
    lr: ClassVar[float] = 5e-3
    min_explained_variance: ClassVar[float] = 0.8
    """To be reached on the planted world in 300 steps of 256 tokens."""
    l0_tolerance: ClassVar[float] = 0.1
    """Allowed relative difference between L0 in training and with the inference gate."""

    def _world(self) -> DiffWorld:
        return DiffWorld(SMALL_WORLD)

    def _crosscoder(self) -> Crosscoder:
        from ..wiring import LatentGroup, Wiring

        sites = (Site("base/x", 16), Site("chat/x", 16))
        names = ("base/x", "chat/x")
        return Crosscoder(Wiring(sites=sites, groups=(LatentGroup("all", 32, reads=names, writes=names),)))

    def _batches(self, batch_size: int = 256) -> Iterator[Tensor]:
        world, number = self._world(), 0
        while True:
            ids = torch.arange(number, number + batch_size)
            yield torch.cat([world.activations("a", ids), world.activations("b", ids)], dim=1)
            number += batch_size

    def _ready(self, registry: Registry) -> tuple[Crosscoder, Any, Tensor, StepContext]:
        crosscoder, loss = self._crosscoder(), self._choice(registry).build(registry=registry)
        generator = torch.Generator().manual_seed(0)
        initialise(crosscoder, decoder_norm=loss.decoder_norm, same_across_sites=True, generator=generator)
        step = StepContext(step=5, total_steps=10, warmed_up=True, num_tokens=256,
                           dead_F=torch.arange(32) % 4 == 0)  # fmt: skip
        return crosscoder, loss.train(), next(self._batches()), step

    def test_terms_are_finite_scalars_with_gradient(self, registry: Registry) -> None:
        crosscoder, loss, x_BX, step = self._ready(registry)
        output = loss(crosscoder, x_BX, step)
        assert output.terms
        for name, term in output.terms.items():
            assert term.shape == () and math.isfinite(term.item()), name
        sum(output.terms.values()).backward()
        for parameter_name, parameter in crosscoder.named_parameters():
            assert parameter.grad is not None and bool(torch.isfinite(parameter.grad).all()), parameter_name

    def test_output_says_what_fired(self, registry: Registry) -> None:
        crosscoder, loss, x_BX, step = self._ready(registry)
        output = loss(crosscoder, x_BX, step)
        assert output.fired_F.dtype == torch.bool and output.fired_F.shape == (32,)
        assert output.residual_BX.shape == crosscoder.target(x_BX).shape
        assert not output.residual_BX.requires_grad
        assert int(output.fired_F.sum()) <= int(output.num_active)

    def test_terms_are_means_over_tokens(self, registry: Registry) -> None:
        crosscoder, loss, x_BX, step = self._ready(registry)
        import attrs

        once = loss(crosscoder, x_BX, step).terms
        twice = loss(crosscoder, torch.cat([x_BX, x_BX]), attrs.evolve(step, num_tokens=512)).terms
        for name in once:
            torch.testing.assert_close(once[name], twice[name], rtol=1e-4, atol=1e-6)

    def test_two_processes_average_to_one(self, registry: Registry) -> None:
        """Each process scales its sum up, so that the mean over processes is the mean over all tokens."""
        crosscoder, loss, x_BX, step = self._ready(registry)
        import attrs

        once = loss(crosscoder, x_BX, step).terms
        doubled = loss(crosscoder, x_BX, attrs.evolve(step, num_tokens=512, num_processes=2)).terms
        if self._selects_by_batch(registry):
            pytest.skip("a batch-wide selection meets all processes at once; tested with real processes")
        for name in once:
            torch.testing.assert_close(once[name], doubled[name])

    def _selects_by_batch(self, registry: Registry) -> bool:
        crosscoder, loss, x_BX, step = self._ready(registry)
        import attrs

        few = loss(crosscoder, x_BX, attrs.evolve(step, num_tokens=128)).num_active
        return int(few) != int(loss(crosscoder, x_BX, step).num_active)

    def test_it_learns_the_planted_world_and_its_gate_agrees(self, registry: Registry) -> None:
        crosscoder, loss = self._crosscoder(), self._choice(registry).build(registry=registry)
        config = TrainingConfig(num_tokens=300 * 256, batch_size=256, lr=self.lr)
        reports = list(fit(crosscoder, loss, self._batches(), config))
        assert reports[-1].loss < reports[0].loss
        metrics = evaluate(crosscoder, islice(self._batches(), 290, 300))
        assert min(metrics.explained_variance.values()) >= self.min_explained_variance, metrics
        trained_l0 = sum(report.l0 for report in reports[-10:]) / 10
        assert metrics.l0 == pytest.approx(trained_l0, rel=self.l0_tolerance)

    def test_gate_survives_saving(self, registry: Registry, tmp_path: Path) -> None:
        from ..gates import gate_of

        crosscoder, loss, x_BX, step = self._ready(registry)
        loss(crosscoder, x_BX, step)
        gate = loss.gate()
        again = gate_of(json.loads(json.dumps({"name": gate.name, **gate.options()})))
        again.load_state_dict(gate.state_dict())
        f_BF = crosscoder.pre_activations(x_BX).relu()
        assert torch.equal(again.keep(f_BF, crosscoder.score_norms()), gate.keep(f_BF, crosscoder.score_norms()))

    def test_state_survives_saving(self, registry: Registry) -> None:
        crosscoder, loss, x_BX, step = self._ready(registry)
        loss(crosscoder, x_BX, step)
        again = self._choice(registry).build(registry=registry).train()
        again.load_state_dict(loss.state_dict())
        first, second = loss(crosscoder, x_BX, step), again(crosscoder, x_BX, step)
        for name in first.terms:
            assert torch.equal(first.terms[name], second.terms[name])


class ModelAdapterSuite(_Suite):
    """Rules of a model adapter. The `adapter` fixture gives one; a small random model will do."""

    has_logits: ClassVar[bool] = True
    """False for encoders."""
    tolerance: ClassVar[float] = 2e-4
    """Between a batch and its rows one by one."""

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
            alone = TokenBatch(*(t[row : row + 1, :length] for t in (rows.ids, rows.attention, rows.bos, rows.special)))
            for point, activation in adapter.activations(alone, list(adapter.points())).items():
                torch.testing.assert_close(
                    activation[0], together[point][row, :length], rtol=self.tolerance, atol=self.tolerance
                )

    def test_tokens_have_texts(self, adapter: ModelAdapter) -> None:
        texts = adapter.token_texts([5, 6, 7])
        assert len(texts) == 3 and all(isinstance(text, str) for text in texts)
        assert isinstance(adapter.text([5, 6]), str)
        assert adapter.vocabulary() == adapter.vocabulary()

    def test_ready_ids_pass_through(self, adapter: ModelAdapter) -> None:
        tokens = adapter.tokenize(TokenIds((5, 6, 7)))
        assert list(tokens.ids) == [5, 6, 7] and len(tokens.bos) == len(tokens.special) == 3

    def test_chats_are_laid_out_or_refused(self, adapter: ModelAdapter) -> None:
        from ..documents import Message

        chat = Chat((Message("user", "hello"), Message("assistant", "world")))
        if adapter.has_chat_template():
            assert len(adapter.tokenize(chat).ids) > 2
        else:
            with pytest.raises(CrosscodersError):
                adapter.tokenize(chat)

    def _needs_logits(self) -> None:
        if not self.has_logits:
            pytest.skip("an encoder has no next-token logits")

    def test_replacing_activations_by_themselves_changes_nothing(self, adapter: ModelAdapter) -> None:
        self._needs_logits()
        rows = self._rows(adapter)
        plain = adapter.logits(rows)
        for point in adapter.points():
            own = adapter.activations(rows, [point])[point]
            edited = adapter.logits(rows, [Edit.replace(point, own)])
            torch.testing.assert_close(edited[rows.attention], plain[rows.attention], msg=point)

    def test_edits_take_effect_and_leave_no_trace(self, adapter: ModelAdapter) -> None:
        self._needs_logits()
        rows = self._rows(adapter)
        plain = adapter.logits(rows)
        for point in adapter.points():
            shift = torch.linspace(-2.0, 2.0, adapter.width(point))
            edited = adapter.logits(rows, [Edit.add(point, shift)])
            assert not torch.allclose(edited[rows.attention], plain[rows.attention]), point
        assert torch.equal(adapter.logits(rows), plain)

    def test_values_are_broadcast_and_edits_do_not_linger(self, adapter: ModelAdapter) -> None:
        self._needs_logits()
        rows, points = self._rows(adapter), list(adapter.points())
        before = adapter.activations(rows, points)
        adapter.logits(rows, [Edit.replace(points[-1], torch.zeros(adapter.width(points[-1])))])
        after = adapter.activations(rows, points)
        for point in points:
            assert torch.equal(before[point], after[point]), point

    def test_decoder_agrees_with_the_whole_forward_pass(self, adapter: ModelAdapter) -> None:
        self._needs_logits()
        rows = self._rows(adapter, (6, 6))
        whole = adapter.logits(rows)
        decoder = adapter.decoder()
        first = decoder.advance(rows.ids[:, :3], rows.attention[:, :3])
        torch.testing.assert_close(first, whole[:, 2], rtol=self.tolerance, atol=self.tolerance)
        for position in range(3, 6):
            next_logits = decoder.advance(
                rows.ids[:, position : position + 1], rows.attention[:, position : position + 1]
            )
            torch.testing.assert_close(next_logits, whole[:, position], rtol=self.tolerance, atol=self.tolerance)

    def test_left_padding_changes_no_logits(self, adapter: ModelAdapter) -> None:
        self._needs_logits()
        rows = self._rows(adapter, (6, 3))
        shifted_ids, shifted_attention = rows.ids.clone(), rows.attention.clone()
        shifted_ids[1], shifted_attention[1] = rows.ids[1].roll(3), rows.attention[1].roll(3)
        alone = adapter.decoder().advance(rows.ids[1:, :3], rows.attention[1:, :3])
        padded = adapter.decoder().advance(shifted_ids, shifted_attention)
        torch.testing.assert_close(padded[1:], alone, rtol=self.tolerance, atol=self.tolerance)


class TokenSourceSuite(_NamedSuite):
    """Rules of a token source."""

    choice = TokenSourceChoice

    def _source(self, registry: Registry) -> Any:
        return self._choice(registry).build(registry=registry)

    def test_documents_are_the_same_every_time(self, registry: Registry) -> None:
        first = list(islice(self._source(registry).documents(), 20))
        assert first and first == list(islice(self._source(registry).documents(), 20))
        assert all(isinstance(document, Text | Chat | TokenIds) for document in first)

    def test_skipping_goes_on_where_it_says(self, registry: Registry) -> None:
        documents = list(islice(self._source(registry).documents(), 12))
        half = len(documents) // 2
        assert list(islice(self._source(registry).documents(skip=half), len(documents) - half)) == documents[half:]


class AnalysisSuite(_NamedSuite):
    """Rules of an analysis, on a crosscoder that was trained for seconds on the planted pair."""

    choice = AnalysisChoice

    @pytest.fixture
    def study(self, planted_study: Study) -> Study:
        """Override to study something else than the planted pair."""
        return planted_study

    def _report(self, study: Study, registry: Registry) -> Report:
        report: Report = self._choice(registry).build(registry=registry).run(study)
        return report

    def test_it_gives_a_report_with_json(self, study: Study, registry: Registry) -> None:
        report = self._report(study, registry)
        assert isinstance(report, Report) and report.title and report.parts
        json.dumps(report.to_json(), allow_nan=False)

    def test_its_page_stands_alone(self, study: Study, registry: Registry) -> None:
        page = self._report(study, registry).to_html()
        assert "<script" not in page and "src=" not in page and 'rel="stylesheet"' not in page

    def test_it_is_deterministic(self, study: Study, registry: Registry) -> None:
        assert self._report(study, registry).to_json() == self._report(study, registry).to_json()

    def test_it_changes_nothing_in_the_crosscoder(self, study: Study, registry: Registry) -> None:
        before = {key: value.clone() for key, value in study.crosscoder.state_dict().items()}
        self._report(study, registry)
        for key, value in study.crosscoder.state_dict().items():
            assert torch.equal(value, before[key]), key


class CheckpointFormatSuite(_Suite):
    """Rules of a foreign format; `format_name` is the record's, `crosscoder` one that the format can hold."""

    format_name: ClassVar[str]

    @pytest.fixture
    def crosscoder(self) -> Crosscoder:
        """A crosscoder that the format can hold."""
        raise NotImplementedError("override the fixture `crosscoder`")

    def _format(self, registry: Registry) -> Any:
        spec = registry.checkpoint_formats[self.format_name].spec
        build: Callable[..., Any] = spec.build.load()
        return build(spec.config.load()())

    def test_what_it_writes_it_recognises_and_reads(
        self, registry: Registry, crosscoder: Crosscoder, tmp_path: Path
    ) -> None:
        found = self._format(registry)
        found.write(crosscoder, tmp_path)
        assert found.detect([path.name for path in tmp_path.iterdir()])
        again = found.read(tmp_path, {str(i): site.name for i, site in enumerate(crosscoder.sites)})
        x_BX = torch.randn(16, crosscoder.layout.width, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(again(x_BX), crosscoder(x_BX), rtol=1e-4, atol=1e-5)

    def test_it_does_not_claim_our_own_folders(self, registry: Registry) -> None:
        assert not self._format(registry).detect(["config.json", "model.safetensors", "README.md"])
