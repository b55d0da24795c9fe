"""The conformance suites are all the tests that a well-behaved plugin needs to begin with."""

import pytest
import torch
from safetensors.torch import save_file

from crosscoders import ConfigError, ModelChoice, RunConfig, Site, TokenBatch, train
from crosscoders.testing import (
    AnalysisSuite,
    ArchitectureSuite,
    CommandSuite,
    GateSuite,
    LossSuite,
    MetricSuite,
    ModelAdapterSuite,
    ObserverSuite,
    TokenSourceSuite,
)


class TestPaired(ArchitectureSuite):
    name = "paired"
    options = {"shared_latents": 8, "extra_latents": 3}
    sites = (Site("m/a", 6), Site("n/a", 5))


class TestLogPenalty(LossSuite):
    name = "log_penalty"


class TestSharedBudget(LossSuite):
    name = "shared_budget"
    options = {"k": 3}


class TestRandomWalk(ModelAdapterSuite):
    keeps_documents_apart = False  # the walk goes on over the ends of documents, so rows hold one each

    @pytest.fixture
    def adapter(self):
        return ModelChoice.of("random_walk", width=6).build()


class TestWaves(ModelAdapterSuite):
    capabilities = ()  # it gives activations and nothing else

    @pytest.fixture
    def adapter(self):
        return ModelChoice.of("waves").build()


def sequences():
    """Those that the suite runs: its rows, and the documents of its packed row."""
    suite = ModelAdapterSuite()
    rows, packed = suite._rows(None), suite._rows(None, (9,)).ids[0]
    own = [row[there] for row, there in zip(rows.ids, rows.attention)]
    return [*own, packed[:4], packed[4:6], packed[6:]]


def record(folder, sequences, layers=2, width=5):
    """What an engine writes of a causal model: sums of what came so far."""
    table = torch.randn(32, layers, width, generator=torch.Generator().manual_seed(0))
    for number, ids in enumerate(sequences):
        states = {"token_ids": ids, "hidden_states": table[ids].cumsum(dim=0)}
        save_file(states, folder / f"request-{number:04}.safetensors")


class TestRecorded(ModelAdapterSuite):
    capabilities = ()

    @pytest.fixture
    def adapter(self, tmp_path):
        record(tmp_path, sequences())
        return ModelChoice.of("recorded", folder=str(tmp_path), model="me/large", layers=[3, 7]).build()

    def test_points_are_what_the_layers_before_give(self, adapter):
        assert adapter.points() == ["layers.2", "layers.6"]

    def test_what_was_not_recorded_is_said(self, adapter):
        none = torch.zeros(1, 2, dtype=torch.bool)
        with pytest.raises(ConfigError, match=r"no request of these 2 tokens was recorded: \(1, 2\)"):
            adapter.activations(TokenBatch(torch.tensor([[1, 2]]), ~none, none, none), ["layers.2"])


class TestRecordedTokens(TokenSourceSuite):
    name = "recorded_tokens"

    @pytest.fixture(autouse=True)
    def _files(self, tmp_path):
        record(tmp_path, sequences())
        type(self).options = {"folder": str(tmp_path)}


def test_a_crosscoder_trains_on_what_an_engine_recorded(tmp_path):
    generator = torch.Generator().manual_seed(1)
    (tmp_path / "states").mkdir()
    record(tmp_path / "states", [torch.randint(0, 32, (12,), generator=generator) for _ in range(200)])
    folder = {"folder": str(tmp_path / "states")}
    config = {
        "models": {"large": {"name": "recorded", **folder, "model": "me/large", "layers": [3, 7]}},
        "sites": ["large/layers.2", "large/layers.6"],
        "tokens": {"name": "recorded_tokens", **folder},
        "architecture": {"name": "acausal", "num_latents": 32},
        "loss": {"name": "batchtopk", "k": 4},
        "activations": {"context_length": 16, "block_tokens": 1024, "calibration_tokens": 512},
        "training": {"num_tokens": 2048, "batch_size": 128, "evaluation_tokens": 128},
        "output": str(tmp_path / "run"),
    }
    crosscoder = train(RunConfig.from_dict(config), quiet=True)
    assert crosscoder.info.models["large"]["model"] == "me/large"
    assert [site.width for site in crosscoder.sites] == [5, 5]


class TestAlive(AnalysisSuite):
    name = "alive"


class TestMargin(GateSuite):
    name = "margin"


class TestPlateau(ObserverSuite):
    name = "plateau"


class TestPlateauThatEndsTheRun(ObserverSuite):
    name = "plateau"
    options = {"window": 5, "least": 10.0}
    stops = True


class TestEvenness(MetricSuite):
    name = "evenness"


class TestSiteNorms(CommandSuite):
    name = "site-norms"

    @pytest.fixture
    def arguments(self, planted_run):
        return [str(planted_run / "crosscoder")]
