"""The monthly run with the newest versions says what is newer, and what could not be."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parent.parent
spec = importlib.util.spec_from_file_location("newest", ROOT / "scripts" / "newest.py")
newest = importlib.util.module_from_spec(spec)
spec.loader.exec_module(newest)


def test_dependencies_are_those_of_the_package_and_its_extras():
    names = newest.direct_dependencies(ROOT / "pyproject.toml")
    assert {"torch", "transformers", "huggingface-hub", "nnsight", "transformer-lens", "peft"} <= names
    assert "crosscoders" not in names and all(name == name.lower() and "_" not in name for name in names)


def test_what_is_newer_is_said():
    names = {"torch", "huggingface-hub", "peft"}
    here = {"torch": "2.13.0", "huggingface_hub": "2.4.0", "other": "1"}
    assert newest.changes(here, {"torch": "2.13.0", "huggingface-hub": "2.4.0", "other": "2"}, names) == [
        "all versions as here"
    ]
    assert newest.changes(here, {"torch": "2.15.0", "huggingface_hub": "2.4.0", "peft": "0.21"}, names)[1:] == [
        "  peft (not installed here) -> 0.21",
        "  torch 2.13.0 -> 2.15.0",
    ]


def test_what_could_not_be_newer_is_said():
    outdated = [
        {"name": "torch", "version": "2.13.0", "latest_version": "2.15.0"},
        {"name": "mpmath", "version": "1.3.0", "latest_version": "1.4.1"},
    ]
    assert newest.held_back(outdated, {"torch"})[1:] == ["  torch 2.13.0, newest 2.15.0"]
    assert newest.held_back(outdated, {"peft"}) == ["none is held back"]


def test_every_extra_that_it_installs_is_there():
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(newest.EXTRAS) <= set(extras)
