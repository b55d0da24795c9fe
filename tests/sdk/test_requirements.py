"""What a config requires, and what a checkpoint says that it needs."""

import json
import sys

import attrs
import pytest
from click.testing import CliRunner

import crosscoders_adapters
import crosscoders_plugins
from crosscoders import (
    ConfigError,
    Crosscoder,
    Gate,
    GateSpec,
    PluginError,
    Registry,
    RunConfig,
    Study,
    TokenSourceSpec,
    hookimpl,
    train,
)
from crosscoders.cli import main
from crosscoders.errors import CheckpointError
from crosscoders.plugins.offers import Provider, SetAside
from crosscoders.testing import synthetic_run


class AlwaysGate(Gate):
    name = "always"

    def __init__(self, options=None):
        super().__init__()

    def keep(self, f_BF, norm_F):
        return f_BF > 0


def make_tokens(options):
    from crosscoders import TokenSourceChoice

    return TokenSourceChoice.of("synthetic", length=32).build()


class Plugin:
    @hookimpl
    def crosscoders_gates(self):
        yield GateSpec(name="always", config="crosscoders:NoOptions", build=f"{__name__}:AlwaysGate")

    @hookimpl
    def crosscoders_token_sources(self):
        yield TokenSourceSpec(name="theirs", config="crosscoders:NoOptions", build=f"{__name__}:make_tokens")


@pytest.fixture
def registry():
    registry = Registry(strict=True)
    for module, name in ((crosscoders_adapters, "crosscoders-adapters"), (crosscoders_plugins, "crosscoders-plugins")):
        registry.register(module, name=name, distribution="crosscoders")
    sys.modules.setdefault(__name__, sys.modules[Plugin.__module__])
    registry.register(Plugin(), name="their-plugin", distribution="their-dist", version="1.2")
    return registry


def config(folder, requires, registry=None, **changes):
    return RunConfig.from_dict(synthetic_run(str(folder), requires=requires, **changes), registry=registry)


def test_what_is_missing_is_said_before_anything_is_looked_up(tmp_path):
    requires = ["attrs>=20", "no-such-plugin>=1", "attrs<2"]
    with pytest.raises(PluginError) as caught:
        config(tmp_path, requires, loss={"name": "their_loss"})
    found = attrs.__version__
    assert str(caught.value) == (
        f"this config requires no-such-plugin>=1, which is not installed; attrs<2, of which version {found} is "
        'installed: pip install "no-such-plugin>=1" "attrs<2"'
    )


def test_the_command_line_says_it_in_one_line(tmp_path):
    (tmp_path / "run.toml").write_text('requires = ["no-such-plugin>=1"]\nloss = {name = "theirs"}\n')
    found = CliRunner().invoke(main, ["train", str(tmp_path / "run.toml")])
    assert found.exit_code == 1
    assert found.output == (
        'Error: this config requires no-such-plugin>=1, which is not installed: pip install "no-such-plugin>=1"\n'
    )


@pytest.mark.parametrize("requires", [["not a name"], ["x @ https://example.org/x.whl"], [3], [">=1"]])
def test_what_is_not_a_requirement_is_refused(tmp_path, requires):
    with pytest.raises(ConfigError, match=r"requires: .* (is not a requirement such as|names an address)"):
        config(tmp_path, requires)


def test_an_installed_plugin_that_cannot_be_used_is_named(tmp_path):
    registry = Registry()
    registry.set_aside.append(SetAside(Provider("attrs-plugin", "attrs", "1"), "ImportError: no wings"))
    with pytest.raises(PluginError, match=r"installed but cannot be used: attrs 1 \(plugin 'attrs-plugin'\): Import"):
        config(tmp_path, ["attrs"], registry)


def test_it_is_recorded_and_the_card_says_what_is_needed(tmp_path, registry):
    data = synthetic_run(str(tmp_path), requires=["attrs>=20"])
    data["tokens"] = {"name": "theirs"}
    crosscoder = train(RunConfig.from_dict(data, registry=registry), quiet=True, registry=registry)
    crosscoder.gate = AlwaysGate()
    saved = crosscoder.save_pretrained(tmp_path / "saved", registry=registry)
    recorded = json.loads((saved / "config.json").read_text())
    assert recorded["recipe"]["requires"] == ["attrs>=20"]
    theirs = {"plugin": "their-plugin", "distribution": "their-dist", "version": "1.2"}
    assert recorded["needs"] == [
        {"component": "gate 'always'", **theirs},
        {"component": "token source 'theirs'", **theirs},
    ]
    card = " ".join((saved / "README.md").read_text().split())
    needs = "`their-dist` 1.2 (gate 'always'); to be trained again: `their-dist` 1.2 (token source 'theirs')"
    assert f"**Needs** to be loaded: {needs}." in card
    shown = CliRunner().invoke(main, ["info", str(saved)]).output
    assert "needs their-dist 1.2 (plugin 'their-plugin'): gate 'always', token source 'theirs'" in shown
    assert Crosscoder.from_pretrained(saved, registry=registry).info.needs == recorded["needs"]
    # Those who lack the plugin are told whose it is, and no command that somebody else's file would have them run.
    with pytest.raises(
        PluginError, match=r"the gate 'always' .*'their-plugin' of the distribution 'their-dist' ver"
    ) as e:
        Crosscoder.from_pretrained(saved)
    assert "pip install" not in str(e.value)
    trained = Crosscoder.from_pretrained(tmp_path / "crosscoder")
    with pytest.raises(
        PluginError, match=r"no token source is called .* of the distribution 'their-dist' version '1.2'"
    ):
        Study.of(trained)


def test_a_crosscoder_of_our_own_parts_needs_nothing(planted_run):
    recorded = json.loads((planted_run / "crosscoder" / "config.json").read_text())
    assert "needs" not in recorded and "Needs" not in (planted_run / "crosscoder" / "README.md").read_text()


def test_malformed_needs_are_refused(planted_run, tmp_path):
    import shutil

    shutil.copytree(planted_run / "crosscoder", tmp_path / "bad")
    path = tmp_path / "bad" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "needs": [{"component": 3}]}))
    with pytest.raises(CheckpointError, match="malformed entry of 'needs'"):
        Crosscoder.from_pretrained(tmp_path / "bad")
