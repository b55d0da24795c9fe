"""Sharing, with the real client against a local server that speaks the Hub's protocol."""

import re

import pytest
import torch

from crosscoders import CheckpointError, Crosscoder
from crosscoders.checkpoints.hub import push_folder

ALICE = "hf_alice"


def same(first, second):
    x_BX = torch.randn(50, first.layout.width, generator=torch.Generator().manual_seed(0))
    return torch.equal(first.encode(x_BX).dense(), second.encode(x_BX).dense()) and torch.equal(
        first(x_BX), second(x_BX)
    )


def test_pushed_crosscoder_comes_back_bit_equal(hub, planted_crosscoder):
    url = planted_crosscoder.push_to_hub("alice/diff", token=ALICE)
    assert url.startswith(hub.url)
    assert same(planted_crosscoder, Crosscoder.from_pretrained("alice/diff"))
    files = hub.repos["alice/diff"].commits[hub.repos["alice/diff"].refs["main"]]
    assert {"config.json", "model.safetensors", "README.md", "figures/norm-share.png"} <= set(files)
    assert b"library_name: crosscoders" in files["README.md"]
    assert b"- crosscoders\n" in files["README.md"]


def test_pull_by_revision_and_tag(hub, planted_crosscoder):
    first = planted_crosscoder.push_to_hub("alice/diff", token=ALICE, tag="v1", commit_message="first").rpartition("/")[
        2
    ]
    with torch.no_grad():
        planted_crosscoder.b_dec_X += 1
    planted_crosscoder.push_to_hub("alice/diff", token=ALICE, commit_message="second")
    newest = Crosscoder.from_pretrained("alice/diff")
    assert same(newest, planted_crosscoder)
    for revision in ("v1", first):
        old = Crosscoder.from_pretrained("alice/diff", revision=revision)
        torch.testing.assert_close(old.b_dec_X + 1, newest.b_dec_X)
    assert hub.repos["alice/diff"].messages[1:] == ["first", "second"]
    with pytest.raises(CheckpointError, match="revision 'v9'"):
        Crosscoder.from_pretrained("alice/diff", revision="v9")


def test_info_fetches_the_config_alone(hub, planted_crosscoder, tmp_path, monkeypatch):
    from click.testing import CliRunner

    from crosscoders.cli import main

    def info(*arguments):
        return CliRunner().invoke(main, ["info", *arguments])

    planted_crosscoder.push_to_hub("alice/diff", token=ALICE)
    hub.requests.clear()
    found = info("alice/diff")
    assert found.exit_code == 0 and "32 latents, architecture acausal" in found.output
    fetched = {request.partition("/resolve/")[2].partition("/")[2] for request in hub.requests}
    assert fetched - {""} == {"config.json"}
    assert not any(request.startswith("GET") and ".safetensors" in request for request in hub.requests)
    hub.requests.clear()
    monkeypatch.chdir(tmp_path)
    for name in ("./nope", str(tmp_path / "nope"), "a/b/nope"):
        assert f"there is no folder {name}" in info(name).output
    assert not hub.requests


def test_private_repository_needs_a_token(hub, planted_crosscoder):
    planted_crosscoder.push_to_hub("alice/secret", private=True, token=ALICE)
    assert hub.repos["alice/secret"].private
    with pytest.raises(CheckpointError, match="alice/secret"):
        Crosscoder.from_pretrained("alice/secret")
    with pytest.raises(CheckpointError, match="alice/secret"):
        Crosscoder.from_pretrained("alice/secret", token="hf_bob")
    assert same(planted_crosscoder, Crosscoder.from_pretrained("alice/secret", token=ALICE))


def test_token_from_the_environment(hub, planted_crosscoder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", ALICE)
    planted_crosscoder.push_to_hub("alice/env", private=True)
    assert same(planted_crosscoder, Crosscoder.from_pretrained("alice/env"))


def test_pushing_without_rights_says_so(hub, planted_crosscoder):
    with pytest.raises(CheckpointError, match="could not push to 'alice/diff'"):
        planted_crosscoder.push_to_hub("alice/diff")
    with pytest.raises(CheckpointError, match="could not push to 'alice/diff'"):
        planted_crosscoder.push_to_hub("alice/diff", token="hf_bob")


@pytest.mark.parametrize("fault", ["drop_upload", "refuse_commit"])
def test_interrupted_upload_leaves_no_half_release(hub, planted_crosscoder, fault):
    planted_crosscoder.push_to_hub("alice/diff", token=ALICE, tag="v1")
    before = dict(hub.repos["alice/diff"].commits)
    kept = Crosscoder.from_pretrained("alice/diff")
    with torch.no_grad():
        planted_crosscoder.b_dec_X += 1
    hub.faults.add(fault)
    with pytest.raises(CheckpointError, match="could not push"):
        planted_crosscoder.push_to_hub("alice/diff", token=ALICE, tag="v2")
    hub.faults.clear()
    assert hub.repos["alice/diff"].commits == before and set(hub.repos["alice/diff"].tags) == {"v1"}
    assert same(kept, Crosscoder.from_pretrained("alice/diff"))


def test_corrupted_download_is_noticed_and_not_kept(hub, planted_crosscoder):
    planted_crosscoder.push_to_hub("alice/torn", token=ALICE)
    hub.faults.add("corrupt_download")
    with pytest.raises(CheckpointError, match="sha256"):
        Crosscoder.from_pretrained("alice/torn")
    hub.faults.clear()
    assert same(planted_crosscoder, Crosscoder.from_pretrained("alice/torn"))


def test_subfolder(hub, planted_crosscoder, tmp_path):
    from huggingface_hub import HfApi

    planted_crosscoder.save_pretrained(tmp_path / "saved")
    api = HfApi(token=ALICE)
    api.create_repo("alice/many")
    api.upload_folder(repo_id="alice/many", folder_path=tmp_path / "saved", path_in_repo="layer-2")
    assert same(planted_crosscoder, Crosscoder.from_pretrained("alice/many", subfolder="layer-2"))
    assert same(planted_crosscoder, Crosscoder.from_pretrained(tmp_path, subfolder="saved"))


def test_unknown_repository_and_bad_name(hub):
    with pytest.raises(CheckpointError, match="'alice/none' is not a folder here"):
        Crosscoder.from_pretrained("alice/none")
    with pytest.raises(CheckpointError, match="could not be fetched"):
        Crosscoder.from_pretrained("not a repo id!")


def test_a_folder_that_is_no_crosscoder_is_never_pushed(hub, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="does not describe a crosscoder"):
        push_folder(tmp_path, "alice/junk", token=ALICE)
    assert not hub.repos


def test_a_commit_that_would_lead_out_of_the_cache_is_refused(hub, planted_crosscoder, tmp_path):
    planted_crosscoder.push_to_hub("alice/odd", token="hf_alice")
    hub.change = lambda body: re.sub(rb'"sha": ?"[0-9a-f]{40}"', b'"sha": "../../../outside"', body)
    try:
        for _ in range(2):  # nothing of it is remembered and believed
            with pytest.raises(CheckpointError, match=r"'\.\./\.\./\.\./outside' is not a commit"):
                Crosscoder.from_pretrained("alice/odd", cache_dir=tmp_path / "cache")
    finally:
        hub.change = None
    assert {path.name for path in tmp_path.iterdir()} <= {"cache"} and not list(tmp_path.rglob("outside*"))
    Crosscoder.from_pretrained("alice/odd", cache_dir=tmp_path / "cache")
