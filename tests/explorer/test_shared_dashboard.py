"""A dashboard on the Hub, with the real client against a local server that speaks its protocol."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from crosscoders import CheckpointError, Crosscoder
from crosscoders.cli import main
from crosscoders.pages import put_script, put_value
from small_dashboard import small_dashboard
from study_of_texts import shared_study

ALICE = "hf_alice"


@pytest.fixture
def folder(tmp_path):
    """A copy that may be changed."""
    return shutil.copytree(small_dashboard(), tmp_path / "dashboard")


@pytest.fixture
def crosscoder():
    return shared_study().crosscoder


def files_of(hub, repo):
    return hub.repos[repo].commits[hub.repos[repo].refs["main"]]


def whole(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_dashboard_goes_into_the_repository_and_the_card_links_to_it(hub, crosscoder, folder):
    (folder / "notes.txt").write_text("mine")
    (folder / ".secret").write_text("mine")
    crosscoder.push_to_hub("alice/diff", token=ALICE, dashboard=folder)
    files = files_of(hub, "alice/diff")
    pushed = {name.removeprefix("dashboard/"): content for name, content in files.items() if "dashboard/" in name}
    assert pushed == whole(small_dashboard())
    card = files["README.md"].decode()
    assert f"[`dashboard`]({hub.url}/alice/diff/tree/main/dashboard)" in card and "hf download alice/diff" in card
    assert card.index("## Dashboard") < card.index("Made with crosscoders")
    assert len(hub.repos["alice/diff"].messages) == 2  # its making, and one commit
    # Loading fetches none of it.
    hub.requests.clear()
    Crosscoder.from_pretrained("alice/diff")
    assert hub.requests and not [
        request for request in hub.requests if "/resolve/" in request and "dashboard" in request
    ]


def test_what_an_older_dashboard_had_is_removed(hub, crosscoder, folder):
    (folder / "graphs").mkdir()
    (folder / "graphs" / "old.html").write_text("<title>old</title>")
    crosscoder.push_to_hub("alice/diff", token=ALICE, dashboard=folder)
    assert "dashboard/graphs/old.html" in files_of(hub, "alice/diff")
    crosscoder.push_to_hub("alice/diff", token=ALICE, dashboard=small_dashboard())
    files = files_of(hub, "alice/diff")
    assert "dashboard/graphs/old.html" not in files and "dashboard/index.html" in files and "config.json" in files


def test_a_static_space_shows_it(hub, crosscoder, folder):
    crosscoder.push_to_hub("alice/diff", token=ALICE, dashboard=folder, dashboard_space="alice/diff-latents")
    space = hub.repos["spaces/alice/diff-latents"]
    assert space.sdk == "static" and not space.private
    files = files_of(hub, "spaces/alice/diff-latents")
    assert {name: files[name] for name in whole(folder)} == whole(folder)
    readme = files["README.md"].decode()
    assert readme.startswith("---\n") and "sdk: static\n" in readme and "- alice/diff\n" in readme
    import yaml

    head = yaml.safe_load(readme.split("---\n")[1])
    assert head["title"] == "A small one" and head["app_file"] == "index.html"
    card = files_of(hub, "alice/diff")["README.md"].decode()
    assert f"({hub.url}/spaces/alice/diff-latents)" in card
    assert not [name for name in files_of(hub, "alice/diff") if name.startswith("dashboard")]


def test_a_private_repository_has_a_private_space(hub, crosscoder):
    crosscoder.push_to_hub(
        "alice/diff", token=ALICE, private=True, dashboard=small_dashboard(), dashboard_space="alice/shown"
    )
    assert hub.repos["alice/diff"].private and hub.repos["spaces/alice/shown"].private


def test_a_space_of_another_kind_is_left_alone(hub, crosscoder):
    from huggingface_hub import HfApi

    HfApi(token=ALICE).create_repo("alice/app", repo_type="space", space_sdk="gradio")
    with pytest.raises(CheckpointError, match="the Space 'alice/app' runs gradio"):
        crosscoder.push_to_hub("alice/diff", token=ALICE, dashboard=small_dashboard(), dashboard_space="alice/app")
    assert "alice/diff" not in hub.repos and set(files_of(hub, "spaces/alice/app")) == {".gitattributes"}


def test_what_is_not_a_finished_dashboard_is_not_pushed(hub, crosscoder, folder, tmp_path):
    def refused(match, **options):
        with pytest.raises(CheckpointError, match=match):
            crosscoder.push_to_hub("alice/diff", token=ALICE, **{"dashboard": folder, **options})
        assert not hub.repos

    refused("there is no folder", dashboard=tmp_path / "none")
    refused("pass dashboard=", dashboard=None, dashboard_space="alice/space")
    (folder / "progress.json").write_text("{}")
    refused("has not ended")
    (folder / "progress.json").unlink()
    (folder / "data" / "latents-0000.js").rename(folder / "data" / "kept.js")
    refused(r"it has no data/latents-0000\.js")
    (folder / "data" / "kept.js").rename(folder / "data" / "latents-0000.js")
    (folder / "assets" / "out.js").symlink_to(tmp_path / "elsewhere.js")
    (tmp_path / "elsewhere.js").write_text("secret")
    refused("leads out of")
    (folder / "assets" / "out.js").unlink()
    (folder / "data" / "facts.js").write_text("alert(1)")
    refused("should begin with")


def test_paths_of_this_machine_are_not_pushed(hub, crosscoder, folder):
    facts = folder / "data" / "facts.js"
    clean = facts.read_text()
    told = put_value(clean, "facts", CheckpointError)
    told["cards"][0]["rows"].append(["Folder", "/data/mine/run"])
    facts.write_text(put_script("facts", told))
    with pytest.raises(CheckpointError, match="names paths of this machine, such as /data/mine/run"):
        crosscoder.push_to_hub("alice/diff", token=ALICE, dashboard=folder)
    facts.write_text(clean)
    from crosscoders.pages import pack_script

    search = {"labels": {"1": f"as in {Path.home()}/notes.txt"}, "tokens": []}
    (folder / "data" / "search.js").write_text(pack_script("search", search))
    with pytest.raises(CheckpointError, match=r"data/search\.js of the dashboard .* names your home folder"):
        crosscoder.push_to_hub("alice/diff", token=ALICE, dashboard=folder)
    assert not hub.repos


def test_the_command_pushes_it_too(hub, crosscoder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", ALICE)
    crosscoder.save_pretrained(tmp_path / "saved")
    options = ["--dashboard", str(small_dashboard()), "--dashboard-space", "alice/shown"]
    found = CliRunner().invoke(main, ["push", str(tmp_path / "saved"), "alice/diff", *options])
    assert found.exit_code == 0, found.output
    assert "index.html" in files_of(hub, "spaces/alice/shown")
    found = CliRunner().invoke(main, ["push", str(tmp_path / "saved"), "alice/diff", "--dashboard", str(tmp_path)])
    assert found.exit_code == 1 and "is not a finished dashboard: it has no index.html" in found.output


def test_a_refused_push_says_where(hub, crosscoder):
    with pytest.raises(CheckpointError, match="could not push the dashboard to the Space 'bob/space'"):
        crosscoder.push_to_hub("alice/diff", token=ALICE, dashboard=small_dashboard(), dashboard_space="bob/space")
    assert "alice/diff" not in hub.repos


def test_data_in_scripts_comes_back():
    value = {"a": ["</script>", 1.5, None], "b": "\u2028"}
    assert put_value(put_script("x", value), "x", CheckpointError) == json.loads(json.dumps(value))
    with pytest.raises(CheckpointError, match="should begin with"):
        put_value(put_script("y", value), "x", CheckpointError)
    with pytest.raises(CheckpointError, match="cannot be read"):
        put_value('cc.put("x", {,});\n', "x", CheckpointError)
