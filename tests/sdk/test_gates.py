"""Gates are a kind of component: ours and those of plugins are saved, loaded, and refused before a run is lost."""

import json

import pytest
import torch
from attrs import frozen

from crosscoders import (
    CheckpointError,
    ConfigError,
    Crosscoder,
    Gate,
    GateSpec,
    JumpReluGate,
    LossSpec,
    PluginError,
    Registry,
    Site,
    TopKGate,
    build_crosscoder,
    hookimpl,
    train,
)
from crosscoders.crosscoder.gates import describe_gate, gate_from_config
from crosscoders.testing import GateSuite
from crosscoders_plugins.losses.topk import TopK
from runs import config_of


class TestRelu(GateSuite):
    name = "relu"


class TestScoreThreshold(GateSuite):
    name = "score_threshold"


class TestScoreThresholdOfEachLatent(GateSuite):
    name = "score_threshold"
    options = {"num_latents": 12}


class TestJumpRelu(GateSuite):
    name = "jumprelu"
    options = {"num_latents": 12}


class TestTopK(GateSuite):
    name = "topk"
    options = {"k": 3}


@frozen(kw_only=True)
class MarginConfig:
    """How far above zero."""

    margin: float = 0.0


class Margin(Gate):
    name = "margin"

    def __init__(self, options):
        super().__init__()
        self.margin = options.margin
        self.register_buffer("seen", torch.zeros(3))

    def keep(self, f_BF, norm_F):
        return f_BF > self.margin

    def options(self):
        return {"margin": self.margin}


class Offers:
    """A plugin with a gate of its own and a loss that leaves it."""

    @hookimpl
    def crosscoders_gates(self):
        yield GateSpec(name="margin", config=f"{__name__}:MarginConfig", build=f"{__name__}:Margin", summary="Margin.")
        yield GateSpec(name="topk", config=f"{__name__}:MarginConfig", build=f"{__name__}:Margin", summary="Not ours.")


class OffersOnlyTheLoss:
    @hookimpl
    def crosscoders_losses(self):
        yield LossSpec(name="margins", config="crosscoders_plugins.losses.topk:TopKConfig", build=f"{__name__}:Margins")


class Margins(TopK):
    def gate(self):
        return Margin(MarginConfig(margin=0.25))


@pytest.fixture
def importable(monkeypatch):
    """Records refer to this module, which pytest imports without a name that others could import it by."""
    import sys

    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or __import__("types").ModuleType(__name__))
    module = sys.modules[__name__]
    for thing in (MarginConfig, Margin, Margins):
        monkeypatch.setattr(module, thing.__name__, thing, raising=False)


@pytest.fixture
def with_gate(importable):
    registry = Registry.discover()
    registry.register(Offers(), name="margins")
    registry.register(OffersOnlyTheLoss(), name="losses")
    return registry


@pytest.mark.usefixtures("importable")
class TestGateOfAPlugin(GateSuite):
    name = "margin"
    options = {"margin": 0.25}

    @pytest.fixture
    def registry(self, with_gate):
        return with_gate

    def test_listing_it_does_not_import_torch(self, registry):
        pytest.skip("this plugin is not installed")


def test_a_run_with_a_gate_of_a_plugin_can_be_loaded(with_gate, tmp_path):
    config = config_of(tmp_path, loss={"name": "topk", "k": 2}, training={"num_tokens": 512}).to_dict()
    config["loss"] = {"name": "margins", "k": 2}
    from crosscoders import RunConfig

    trained = train(RunConfig.from_dict(config, registry=with_gate), quiet=True, registry=with_gate)
    saved = json.loads((tmp_path / "crosscoder" / "config.json").read_text())
    assert saved["gate"] == {"name": "margins:margin", "margin": 0.25}
    again = Crosscoder.from_pretrained(tmp_path / "crosscoder", registry=with_gate)
    x_BX = torch.randn(30, 32)
    assert torch.equal(again.encode(x_BX).dense(), trained.encode(x_BX).dense())
    missing = r"(?s)has the gate 'margin' of the plugin 'margins'.*no gate is called 'margins:margin'.*: jumprelu"
    with pytest.raises(PluginError, match=missing):
        Crosscoder.from_pretrained(tmp_path / "crosscoder")


def test_a_loss_whose_gate_nobody_offers_is_refused_before_the_first_step(importable, tmp_path):
    from crosscoders import RunConfig

    registry = Registry.discover()
    registry.register(OffersOnlyTheLoss(), name="losses")
    config = config_of(tmp_path, loss={"name": "topk", "k": 2}).to_dict()
    config["loss"] = {"name": "margins", "k": 2}
    with pytest.raises(ConfigError, match="'margins' trains could not be loaded.*hook crosscoders_gates"):
        train(RunConfig.from_dict(config, registry=registry), quiet=True, registry=registry)
    assert not (tmp_path / "crosscoder").exists()


def test_names_of_the_hosts_gates_mean_the_hosts_gates(with_gate):
    assert isinstance(gate_from_config({"name": "topk", "k": 2}, registry=with_gate), TopKGate)
    assert isinstance(gate_from_config({"name": "margins:topk"}, registry=with_gate), Margin)
    assert describe_gate(TopKGate(2), registry=with_gate) == {"name": "topk", "k": 2}


@pytest.mark.parametrize(
    "gate",
    [
        {"name": []},
        {"name": "jumprelu", "num_latents": -1},
        {"name": "jumprelu", "num_latents": 2**64},
        {"name": "jumprelu", "num_latents": 10**400},
        {"name": "jumprelu", "num_latents": 300_000_000},
        {"name": "score_threshold", "num_latents": 5},
        {"name": "topk", "k": "5"},
        {"name": "topk", "k": None},
        {"name": "topk", "k": 0},
        {"name": "topk", "k": True},
        {"name": "topk", "k": 10**30},
        {"name": "topk"},
    ],
    ids=lambda gate: str(gate)[:40],
)
def test_gates_of_files_are_checked(gate, tmp_path):
    crosscoder = build_crosscoder("acausal", (Site("m/a", 4),), num_latents=16)
    crosscoder.gate = JumpReluGate(16) if gate["name"] != "topk" else TopKGate(3)
    folder = crosscoder.save_pretrained(tmp_path / "saved")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "gate": gate}))
    with pytest.raises(CheckpointError):
        Crosscoder.from_pretrained(folder)
