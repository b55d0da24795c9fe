"""No file that can be shared has a local path in it, and configs are compared all the same."""

import json
import shutil

import attrs
import pytest

from crosscoders import CacheError, CheckpointError, RunConfig, train
from crosscoders.privacy.configs import recorded, recorded_like
from crosscoders.training import harvest
from crosscoders_adapters.foreign import TINY_PAIR


def config_of(home, output, **training):
    """A run that reads a model and texts in the folder `home`."""
    return RunConfig.from_dict(
        {
            "sites": ["chat/layers.1"],
            "device": "cpu",
            "models": {"chat": {"name": "transformers", "model": str(home / "model")}},
            "tokens": {"name": "text_files", "paths": [str(home / "texts")], "min_characters": 100},
            "output": str(output),
            "architecture": {"name": "acausal", "num_latents": 16},
            "loss": {"name": "batchtopk", "k": 4},
            "activations": {
                "context_length": 16,
                "calibration_tokens": 64,
                "block_tokens": 128,
                "rows_per_forward": 8,
                "held_out_share": 0.2,
            },
            "training": {
                "num_tokens": 256,
                "batch_size": 64,
                "evaluation_tokens": 64,
                "fidelity_tokens": 0,
                "save_every": 2,
                **training,
            },
        }
    )


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A user's folder with a model and texts, a cache and a run made of them, and what was kept in the home."""
    folder = tmp_path_factory.mktemp("work")
    home = folder / "alice" / "secret-project"
    shutil.copytree(TINY_PAIR / "chat", home / "model")
    (home / "texts").mkdir()
    (home / "texts" / "notes.txt").write_text("\n\n".join(f"a list {i} of the class " * 10 for i in range(40)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        harvest(config_of(home, folder / "unused"), folder / "cache", quiet=True)
        train(attrs.evolve(config_of(home, folder / "run"), cache=folder / "cache"), quiet=True)
    return folder


@pytest.fixture
def place(work, tmp_path, monkeypatch):
    """A copy to change, on the same account; paths in it are those that the cache was made with."""
    kept = tmp_path / "kept"
    shutil.copytree(work, kept)
    monkeypatch.setenv("XDG_STATE_HOME", str(work / "state"))
    yield work
    shutil.rmtree(work)
    kept.rename(work)


def from_cache(place, home, output, **training):
    return train(attrs.evolve(config_of(home, output, **training), cache=place / "cache"), quiet=True)


def test_no_file_of_a_cache_or_a_run_has_a_local_path(work):
    files = [path for name in ("cache", "run") for path in (work / name).rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"manifest.json", "state.json", "finished.json", "config.json", "README.md", "history.json"} <= names
    for path in files:
        content = path.read_bytes()
        assert b"alice" not in content and str(work).encode() not in content, path
    manifest = json.loads((work / "cache" / "manifest.json").read_text())
    assert manifest["identity"]["tokens"]["paths"][0].startswith("local folder (sha256 ")
    assert manifest["models"]["chat"]["model"] == manifest["identity"]["models"]["chat"]["model"]


def test_the_same_content_anywhere_is_the_same_config_also_for_others(place, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "of somebody else"))
    elsewhere = shutil.copytree(place / "alice", tmp_path / "bob") / "secret-project"
    from_cache(place, elsewhere, tmp_path / "run")
    shutil.rmtree(place / "alice")
    harvest(config_of(elsewhere, tmp_path / "unused"), place / "cache", quiet=True)
    (place / "run" / "finished.json").unlink()
    train(config_of(elsewhere, place / "run"), quiet=True)
    assert "resuming from step 4" in capfd.readouterr().err


def test_other_content_is_another_config_for_others(place, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "of somebody else"))
    home = shutil.copytree(place / "alice", tmp_path / "bob") / "secret-project"
    (home / "texts" / "more.txt").write_text("more " * 100)
    with pytest.raises(CacheError, match=r"tokens\.paths was \['local folder \(.* and is now \['local folder \("):
        from_cache(place, home, tmp_path / "run")
    (place / "run" / "finished.json").unlink()
    with pytest.raises(CheckpointError, match=r"is of another run: tokens\.paths was"):
        train(config_of(home, place / "run"), quiet=True)


def test_who_made_a_cache_needs_only_the_same_paths(place, tmp_path, capfd):
    home = place / "alice" / "secret-project"
    (home / "texts" / "more.txt").write_text("more " * 100)
    from_cache(place, home, tmp_path / "grown")
    shutil.rmtree(place / "alice")
    crosscoder = from_cache(place, home, tmp_path / "gone")
    assert crosscoder.info.recipe["models"]["chat"]["model"] == str(home / "model")
    with pytest.raises(CacheError, match=r"models\.chat\.model was 'local folder \(.* and is now 'local path'"):
        from_cache(place, home.parent / "other", tmp_path / "wrong")
    from_cache(place, home, place / "run")
    assert "finished already, at step 4" in capfd.readouterr().err


def test_a_relative_path_is_known_again_when_it_is_gone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "texts").mkdir()
    config = {"tokens": {"name": "text_files", "paths": ["texts"]}, "sites": ["chat/layers.1"], "tokenizer": "chat"}
    then = recorded(config)
    assert "texts" not in json.dumps(then["tokens"]["paths"])
    (tmp_path / "texts").rmdir()
    assert recorded_like(then, config) == then
    (kept,) = (tmp_path / "state" / "crosscoders" / "configs").iterdir()
    assert kept.stat().st_mode & 0o777 == 0o600
    kept.chmod(0o622)  # somebody else could have written it
    assert recorded_like(then, config) != then
    kept.unlink()
    assert recorded_like(then, config) != then and recorded_like(then, then) == then


def test_without_paths_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    config = {"models": {"chat": {"name": "transformers", "model": "tiny-pair/chat"}}, "sites": ("chat/layers.1",)}
    assert recorded(config)["models"] == config["models"]
    assert not list(tmp_path.iterdir())
