"""Someone else's plugin, in its own distribution: installed beside a built wheel in a new environment, used, missed."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PLUGIN = ROOT / "examples" / "crosscoders-example-plugin"

pytestmark = pytest.mark.slow


def run(*command, fails=False, **environment):
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "CROSSCODERS_STRICT_PLUGINS")}
    found = subprocess.run(command, capture_output=True, text=True, env={**clean, **environment}, check=False)
    assert (found.returncode != 0) == fails, found.stdout + found.stderr
    return found.stdout + found.stderr


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheels")
    options = ("-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder))
    run(sys.executable, *options, str(ROOT))
    run(sys.executable, *options, str(PLUGIN))
    return {path.name.split("-")[0]: path for path in folder.iterdir()}


def environment_with(folder, *wheels):
    """A new environment with only `wheels` of its own; their dependencies come from the one the tests run in."""
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])").strip())
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    pip = (
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--force-reinstall",
    )
    run(*pip, *map(str, wheels))
    return python


@pytest.fixture(scope="module")
def with_plugin(wheels, tmp_path_factory):
    return environment_with(
        tmp_path_factory.mktemp("with"), wheels["crosscoders"], wheels["crosscoders_example_plugin"]
    )


@pytest.fixture(scope="module")
def without_plugin(wheels, tmp_path_factory):
    return environment_with(tmp_path_factory.mktemp("without"), wheels["crosscoders"])


def test_wheel_has_the_packages_types_and_models_and_nothing_else(wheels):
    import zipfile

    names = zipfile.ZipFile(wheels["crosscoders"]).namelist()
    top = {name.split("/")[0] for name in names}
    assert {t for t in top if not t.endswith(".dist-info")} == {
        "crosscoders",
        "crosscoders_plugins",
        "crosscoders_adapters",
    }
    for needed in (
        "crosscoders/py.typed",
        "crosscoders_plugins/py.typed",
        "crosscoders_adapters/py.typed",
        "crosscoders/kernels/native.c",
        "crosscoders/reports/templates/page.html",
        "crosscoders_adapters/tiny_pair/base/model.safetensors",
        "crosscoders_adapters/tiny_pair/chat/tokenizer.json",
    ):
        assert needed in names
    assert not [name for name in names if name.endswith((".pyc", ".toml"))]


def test_the_plugin_is_listed_with_its_distribution(with_plugin):
    listing = json.loads(run(with_plugin, "-m", "crosscoders", "plugins", "--json"))
    mine = next(p for p in listing["plugins"] if p["plugin"] == "crosscoders-example-plugin")
    assert (mine["distribution"], mine["version"]) == ("crosscoders-example-plugin", "0.1.0")
    assert [(c["kind"], c["name"]) for c in mine["components"]] == [
        ("architecture", "paired"),
        ("loss", "log_penalty"),
        ("loss", "shared_budget"),
        ("model adapter", "random_walk"),
        ("model adapter", "recorded"),
        ("model adapter", "waves"),
        ("analysis", "alive"),
        ("token source", "recorded_tokens"),
        ("gate", "margin"),
        ("observer", "plateau"),
        ("metric", "evenness"),
        ("command", "site-norms"),
    ]
    where = run(with_plugin, "-c", "import crosscoders; print(crosscoders.__file__)")
    assert str(with_plugin.parent.parent) in where, "the wheel is tested, not the working tree"


def test_the_plugin_passes_our_conformance_suites(with_plugin):
    out = run(with_plugin, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(PLUGIN / "tests"))
    assert " passed" in out


def test_it_trains_saves_and_is_missed_by_those_who_lack_it(with_plugin, without_plugin, tmp_path):
    out = run(with_plugin, str(PLUGIN / "train.py"), str(tmp_path / "run"))
    assert "latents fire" in out
    saved = tmp_path / "run" / "crosscoder"
    architecture = json.loads((saved / "config.json").read_text())["architecture"]
    assert architecture["distribution"] == "crosscoders-example-plugin"
    load = f"from crosscoders import Crosscoder; print(Crosscoder.from_pretrained({str(saved)!r}))"
    assert "shared: 64, extra: 16" in run(with_plugin, "-c", load)
    error = run(without_plugin, "-c", load, fails=True)
    assert "the architecture 'paired' of the plugin 'crosscoders-example-plugin' of the distribution" in error
    assert "'crosscoders-example-plugin' version '0.1.0', which is not loaded here" in error
    assert "available: acausal, dedicated" in error


def test_its_command_is_one_of_ours(with_plugin, planted_run):
    out = run(with_plugin, "-m", "crosscoders", "site-norms", str(planted_run / "crosscoder"))
    assert "base/x: " in out


def test_commands_show_one_clear_line(without_plugin, tmp_path):
    (tmp_path / "run.toml").write_text('sites = ["m/x"]\n[models.m]\nname = "random_walk"\n')
    error = run(without_plugin, "-m", "crosscoders", "train", str(tmp_path / "run.toml"), fails=True)
    assert "no model adapter is called 'random_walk'" in error and "Traceback" not in error
