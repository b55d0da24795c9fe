"""Further metrics of evaluations, as plugins offer them."""

import json
import sys

import attrs
import pytest
import torch
from click.testing import CliRunner

import crosscoders_adapters
import crosscoders_plugins
from crosscoders import AnalysisError, Crosscoder, Metric, MetricSpec, PluginError, RunConfig, Study, hookimpl, train
from crosscoders.cli import main
from crosscoders.errors import ConfigError
from crosscoders.testing import MetricSuite, synthetic_run
from crosscoders.training import evaluate


class MeanError(Metric):
    """The mean squared error over again, by a metric's means."""

    def __init__(self, options):
        pass

    def sums(self, batch):
        errors_BX = (batch.target_BX - batch.x_hat_BX).double().square()
        return torch.cat([errors_BX.sum(dim=0), errors_BX.new_tensor([len(errors_BX)])])

    def values(self, sums_K, crosscoder):
        *parts, count = torch.split(sums_K, [site.width for site in crosscoder.written.sites] + [1])
        return {site: part.sum() / count for site, part in zip(crosscoder.written.names, parts, strict=True)}


class Broken(MeanError):
    def sums(self, batch):
        raise RuntimeError("it has no sums")


class Growing(MeanError):
    def sums(self, batch):
        return torch.zeros(len(batch.x_BX))


class Nameless(MeanError):
    def values(self, sums_K, crosscoder):
        return 3.0


class Plugin:
    @hookimpl
    def crosscoders_metrics(self):
        build = f"{__name__}:MeanError"
        yield MetricSpec(name="mean_error", config="crosscoders:NoOptions", build=build, summary="Errors again.")


@pytest.fixture
def registry(crosscoders_registry):
    for module, name in ((crosscoders_adapters, "crosscoders-adapters"), (crosscoders_plugins, "crosscoders-plugins")):
        crosscoders_registry.register(module, name=name)
    crosscoders_registry.register(Plugin(), name="errors")
    sys.modules.setdefault(__name__, sys.modules[Plugin.__module__])
    return crosscoders_registry


class TestMeanError(MetricSuite):
    name = "mean_error"

    @pytest.fixture
    def registry(self, registry):
        return registry

    def test_listing_it_does_not_import_torch(self):
        pytest.skip("it is in no distribution")


def run(folder, registry, metrics=("mean_error",), **changes):
    data = synthetic_run(str(folder), metrics=[{"name": name} for name in metrics], **changes)
    return train(RunConfig.from_dict(data, registry=registry), quiet=True, registry=registry)


def test_a_run_computes_it_wherever_it_evaluates(tmp_path, registry):
    crosscoder = run(tmp_path, registry, training={"evaluate_every": 40})
    metrics = crosscoder.info.metrics
    assert metrics["further"]["mean_error"] == pytest.approx(metrics["mean_squared_error"], rel=1e-5)
    history = json.loads((tmp_path / "history.json").read_text())
    assert [entry["step"] for entry in history if "evaluation/mean_error/base/x" in entry] == [40, 80]
    saved = tmp_path / "crosscoder"
    assert "| `mean_error`: base/x |" in (saved / "README.md").read_text()
    assert "mean_error: base/x" in CliRunner().invoke(main, ["info", str(saved)]).output
    # A study knows from the recipe what to compute; somebody else's may be told otherwise.
    study = Study.of(Crosscoder.from_pretrained(saved), num_tokens=256, registry=registry)
    found = study.evaluate()
    assert found.further["mean_error"] == pytest.approx(dict(found.mean_squared_error), rel=1e-5)
    assert study.evaluate([]).further == {}
    # Asked for other metrics, a finished run is evaluated again but not trained again.
    assert run(tmp_path, registry, metrics=()).info.metrics["further"] == {}


def test_a_recipe_of_somebody_else_reads_no_files_for_its_metrics(planted_crosscoder):
    recipe = {**planted_crosscoder.info.recipe, "metrics": [{"name": "mean_error", "words": "/etc/passwd"}]}
    planted_crosscoder.info = attrs.evolve(planted_crosscoder.info, recipe=recipe, own=False)
    with pytest.raises(AnalysisError, match=r"pass metrics= of your own"):
        Study.of(planted_crosscoder, num_tokens=256).evaluate()


@pytest.mark.parametrize(
    ("metric", "message"),
    [(Broken, "failed: RuntimeError: it has no sums"), (Growing, "sums of shape"), (Nameless, "not numbers by name")],
)
def test_one_that_fails_is_named(planted_crosscoder, metric, message):
    batches = [torch.randn(n, planted_crosscoder.layout.width) for n in (4, 5)]
    with pytest.raises(PluginError, match=f"the metric 'mine' .*{message}"):
        evaluate(planted_crosscoder, batches, metrics={"mine": metric(None)})


def test_it_is_refused_where_processes_shard_the_latents(tmp_path, registry):
    with pytest.raises(ConfigError, match="metrics need all latents in one process"):
        run(tmp_path, registry, training={"shards": 2})
