"""The conformance suites are all the tests that a well-behaved plugin needs to begin with."""

import pytest

from crosscoders import ModelChoice, Site
from crosscoders.testing import (
    AnalysisSuite,
    ArchitectureSuite,
    CommandSuite,
    GateSuite,
    LossSuite,
    MetricSuite,
    ModelAdapterSuite,
    ObserverSuite,
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
