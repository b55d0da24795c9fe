"""What a checkpoint's recipe may read, what is published of one's own, and that one's own runs stay easy to analyse."""

import json
import os
import shutil

import attrs
import pytest
from click.testing import CliRunner

from crosscoders import (
    AnalysisError,
    CheckpointError,
    CheckpointInfo,
    ConfigError,
    Crosscoder,
    CrosscodersError,
    Study,
    TokenSourceChoice,
)
from crosscoders.analysis.recipe import StudyRecipe
from crosscoders.checkpoints.hub import push_folder
from crosscoders.cli import main
from crosscoders.plugins.choices import ArchitectureChoice
from crosscoders.plugins.registry import get_registry
from crosscoders.privacy.local import fingerprint, is_local, published, record
from crosscoders_adapters.foreign import TINY_PAIR
from runs import config_of

WORD = "hunter2"


@pytest.fixture(scope="module")
def secret(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home") / "alice" / "secret-project"
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("\n\n".join(f"the password {i} is {WORD} in a class " * 30 for i in range(40)))
    return folder


def tiny(key):
    return {"name": "transformers", "model": f"tiny-pair/{key}"}


def difference(after, before):
    return {"name": "difference", "after": after, "before": before}


def texts(folder):
    return {"name": "text_files", "paths": [str(folder)], "min_characters": 100}


@pytest.fixture(scope="module")
def trained(secret, tmp_path_factory):
    """A run of the user's own that reads a local folder, and one of its models from another."""
    tmp_path = tmp_path_factory.mktemp("run")
    shutil.copytree(TINY_PAIR / "chat", secret / "model")
    config = config_of(
        tmp_path / "run",
        models={"base": tiny("base"), "chat": {"name": "transformers", "model": str(secret / "model")}},
        sites=["base/layers.1", "chat/layers.1"],
        activations={"context_length": 32, "held_out_share": 0.2},
        training={"num_tokens": 1024, "batch_size": 256, "evaluation_tokens": 256, "fidelity_tokens": 64},
    )
    config = attrs.evolve(config, tokens=TokenSourceChoice.of("text_files", paths=[str(secret)], min_characters=100))
    from crosscoders import train

    return train(config, quiet=True), tmp_path / "run" / "crosscoder"


@pytest.fixture
def own_run(trained, tmp_path):
    crosscoder, folder = trained
    return crosscoder, shutil.copytree(folder, tmp_path / "own")


@pytest.fixture
def stranger(tmp_path):
    """A crosscoder whose `config.json` says what a stranger wrote there."""

    def make(**recipe):
        crosscoder = _small()
        crosscoder.info = attrs.evolve(
            CheckpointInfo.from_architecture(ArchitectureChoice.of("acausal", num_latents=16)),
            recipe={"models": {key: tiny(key) for key in ("base", "chat")}, "tokens": {"name": "python_library"}},
        )
        folder = crosscoder.save_pretrained(tmp_path / "stranger")
        written = json.loads((folder / "config.json").read_text())
        written["recipe"] = {**written["recipe"], **recipe}
        written.pop("checksum", None)
        (folder / "config.json").write_text(json.dumps(written))
        return folder

    return make


def _small():
    from crosscoders import Site, build_crosscoder

    choice = ArchitectureChoice.of("acausal", num_latents=16)
    return build_crosscoder(choice, (Site("base/layers.1", 192), Site("chat/layers.1", 192)))


def run(*arguments, fails=False):
    found = CliRunner().invoke(main, [str(a) for a in arguments])
    assert (found.exit_code != 0) == fails, found.output
    return found.output


# -- what a stranger's recipe may read ------------------------------------------------------------------------------


@pytest.mark.usefixtures("restored_environment")
def test_a_strangers_recipe_reads_no_local_file_without_the_users_word(stranger, secret, tmp_path):
    folder = stranger(tokens=texts(secret), activations={"held_out_share": 0.0, "rows_per_forward": 4})
    options = ("--tokens", 512, "--analysis", "decoder_norms", "--output", tmp_path / "report")
    out = run("analyse", folder, *options, fails=True)
    assert str(secret) in out and "--trust-recipe" in out and "--tokens" in out and "reads model" not in out
    assert not (tmp_path / "report").exists()
    out = run("analyse", folder, *options, "--trust-recipe")
    assert out.index("reads tokens") < out.index("Decoder norms") and str(secret) in out
    assert "reads model base" in out


@pytest.mark.parametrize(
    "local",
    [
        {"tokens": {"name": "chat_files", "paths": ["~/chats"]}},
        {"tokens": {"name": "text_files", "paths": ["notes"]}},
        {"tokens": {"name": "hf_dataset", "path": "json", "data_files": ["no*s/*.txt"]}},
        {"tokens": {"name": "hf_dataset", "path": "json", "data_files": ["file:///etc/passwd"]}},
        {"tokens": {"name": "hf_dataset", "path": "json", "data_files": ["zip://a::/etc/passwd"]}},
        {"tokens": {"name": "hf_dataset", "path": "json", "data_files": ["http://10.0.0.1/x"]}},
        {"tokens": {"name": "mixture", "sources": [{"name": "text_files", "paths": ["/etc"]}]}},
        {"tokens": {"name": "python_library", "packages": ["stdlib", "numpy"]}},
        {"models": {"base": {"name": "transformers", "model": "notes"}, "chat": tiny("chat")}},
        {"models": {"base": tiny("base"), "chat": {**tiny("chat"), "tokenizer": "/etc"}}},
        {"models": {"base": difference(tiny("base"), {**tiny("base"), "model": "../x"}), "chat": tiny("chat")}},
    ],
)
def test_local_files_are_found_wherever_a_recipe_names_them(stranger, tmp_path, monkeypatch, local):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("a")
    for name in ("main", "train", "stdlib", "transformers", "python_library"):
        (tmp_path / name).mkdir()
    crosscoder = Crosscoder.from_pretrained(stranger(**local))
    with pytest.raises(AnalysisError, match="would read .*trust_recipe"):
        Study.of(crosscoder)
    clean = {"models": {key: tiny(key) for key in ("base", "chat")}, "tokens": {"name": "python_library"}}
    ours = StudyRecipe.of(crosscoder, clean["models"], clean["tokens"])
    ours.check(trusted=False, registry=get_registry())
    assert [line.partition(":")[0] for line in ours.lines()] == ["model base", "model chat", "tokens"]


@pytest.mark.parametrize(
    "recipe",
    [
        {"models": ["tiny-pair/base"]},
        {"models": {"base": "tiny-pair/base", "chat": tiny("chat")}},
        {"tokens": "/etc"},
        {"tokens": [texts("/etc")]},
        {"tokenizer": ["base"]},
        {"models": {"base": {"name": ["transformers"]}, "chat": tiny("chat")}},
        {"tokens": {"name": "no_such_source"}},
        {"activations": {"context_length": "x"}},
    ],
)
def test_malformed_recipes_are_refused(stranger, recipe):
    with pytest.raises(CrosscodersError):
        Study.of(Crosscoder.from_pretrained(stranger(**recipe)))


def test_what_is_everybodys_needs_no_word(stranger, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("main", "transformers", "python_library", "float32"):
        (tmp_path / name).mkdir()
    models = {key: {**tiny(key), "revision": "main", "dtype": "float32"} for key in ("base", "chat")}
    StudyRecipe.of(Crosscoder.from_pretrained(stranger(models=models))).check(trusted=False, registry=get_registry())


@pytest.mark.parametrize("text", ["/a", "~/a", "./a", "../a", "C:\\a", "\\\\server\\a", "a/../b", "file:///a", "a::b"])
def test_paths_are_known_by_their_looks(text):
    assert is_local(text)


@pytest.mark.parametrize("text", ["", "google/gemma-3", "tiny-pair/base", "hf://datasets/a/b", "local folder", "a b"])
def test_other_strings_are_no_paths(text):
    assert not is_local(text)


# -- what is published of one's own ---------------------------------------------------------------------------------


def test_nothing_published_names_a_local_folder_and_ones_own_stays_easy(own_run, secret, tmp_path):
    crosscoder, folder = own_run
    for path in folder.rglob("*"):
        if path.is_file():
            assert b"alice" not in path.read_bytes() and b"secret-project" not in path.read_bytes(), path
    recorded = json.loads((folder / "config.json").read_text())
    assert recorded["models"]["chat"]["model"] == record(str(secret / "model"))
    assert recorded["models"]["chat"]["config"]["model"].startswith("local folder (sha256 ")
    assert recorded["models"]["base"]["model"] == "tiny-pair/base"
    # In the same process, from its folder, and from a copy of that, a user's own crosscoder needs nothing said.
    copy = shutil.copytree(folder, tmp_path / "copy")
    for own in (crosscoder, Crosscoder.from_pretrained(folder), Crosscoder.from_pretrained(copy)):
        lines = []
        assert next(Study.of(own, num_tokens=64, say=lines.append).batches()).x_BX.shape[1] == 384
        assert any(str(secret / "model") in line for line in lines)


@pytest.mark.usefixtures("restored_environment")
def test_on_another_machine_local_folders_are_said_to_be_gone_and_can_be_replaced(own_run, secret, tmp_path, hub):
    os.environ["XDG_STATE_HOME"] = str(tmp_path / "elsewhere")
    _, folder = own_run
    options = ("--tokens", 256, "--analysis", "decoder_norms", "--output", tmp_path / "report")
    out = run("analyse", folder, *options, fails=True)
    assert "chat and tokens" in out and "local folder" in out and "--models chat=ID_OR_FOLDER" in out
    models = ("--models", "chat=tiny-pair/chat")
    assert "tokens of this crosscoder came from a local" in run("analyse", folder, *options, *models, fails=True)
    assert not hub.requests
    (tmp_path / "run.toml").write_text(f"[tokens]\nname = 'text_files'\npaths = ['{secret}']\nmin_characters = 100\n")
    run("analyse", folder, *options, *models, "--tokens", tmp_path / "run.toml")
    out = run("analyse", folder, *options, *models, "--tokens", json.dumps(texts(secret)), "--device", "cpu")
    assert 'reads model chat: {"name": "transformers", "dtype": "float32", "attention": "auto"' in out
    assert "no model 'cat'" in run("analyse", folder, *options, "--models", "cat=x/y", fails=True)
    assert "--device is 'gpu'" in run("analyse", folder, *options, "--device", "gpu", fails=True)
    assert "KEY=ID_OR_FOLDER" in run("analyse", folder, *options, "--models", "cat", fails=True)
    with pytest.raises(ConfigError, match="no folder 'local folder .* on this machine"):
        Study.of(Crosscoder.from_pretrained(folder), models={"chat": record(str(secret))}, tokens=texts(secret))


def test_a_changed_recipe_is_no_longer_ones_own(own_run, secret):
    _, folder = own_run
    written = json.loads((folder / "config.json").read_text())
    written["recipe"]["tokens"] = texts(secret)
    written["recipe"]["models"]["chat"] = written["models"]["chat"]["config"] = tiny("chat")
    written.pop("checksum", None)
    (folder / "config.json").write_text(json.dumps(written))
    with pytest.raises(AnalysisError, match="would read"):
        Study.of(Crosscoder.from_pretrained(folder))


def test_what_others_could_have_written_is_not_ones_own(own_run, secret):
    _, folder = own_run
    (kept,) = [path for path in _records() if str(secret) in path.read_text()]
    assert kept.stat().st_mode & 0o777 == 0o600 and kept.parent.stat().st_mode & 0o077 == 0
    assert Crosscoder.from_pretrained(folder).info.own
    kept.chmod(0o622)
    assert not Crosscoder.from_pretrained(folder).info.own
    kept.chmod(0o600)
    content = kept.read_text()
    kept.write_text("[]")
    assert not Crosscoder.from_pretrained(folder).info.own
    kept.write_text(content)


def _records():
    from pathlib import Path

    return list((Path(os.environ["XDG_STATE_HOME"]) / "crosscoders" / "recipes").iterdir())


def test_a_folder_of_an_older_version_is_not_pushed_with_its_paths(stranger, secret, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    folder = stranger(tokens=texts(secret))
    with pytest.raises(CheckpointError, match="names paths of this machine"):
        push_folder(folder, "alice/old")
    assert not hub.repos
    push_folder(Crosscoder.from_pretrained(folder).save_pretrained(folder.parent / "again"), "alice/new")


def test_only_what_names_files_is_changed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("wandb", "base", "data"):
        (tmp_path / name).mkdir()
    recipe = {
        "trackers": ["wandb"],
        "tokenizer": "base",
        "models": {"base": {"name": "transformers", "model": "base", "revision": "main"}},
        "tokens": {"name": "text_files", "paths": ["data"], "pattern": "*.txt"},
        "loss": {"name": "l1", "table": str(tmp_path / "data")},
    }
    models = {"base": {"model": f"tiny-pair/base - {tmp_path}/data", "notes": ["fine"]}}
    ours, said = published(recipe, models)
    assert ours["trackers"] == ["wandb"] and ours["tokenizer"] == "base"
    assert ours["models"]["base"]["model"].startswith("local folder") and ours["models"]["base"]["revision"] == "main"
    assert ours["tokens"]["paths"][0].startswith("local folder") and ours["tokens"]["pattern"] == "*.txt"
    assert ours["loss"]["table"].startswith("local folder")
    assert said["base"]["model"].startswith("tiny-pair/base - ") and str(tmp_path) not in json.dumps([ours, said])


def test_a_fingerprint_is_of_what_a_folder_holds(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name / "in").mkdir(parents=True)
        (tmp_path / name / "in" / "a.bin").write_bytes(bytes(200_000))
    assert fingerprint(tmp_path / "one") == fingerprint(tmp_path / "two")
    with (tmp_path / "two" / "in" / "a.bin").open("r+b") as file:
        file.seek(199_999)
        file.write(b"x")
    assert fingerprint(tmp_path / "one") != fingerprint(tmp_path / "two")
