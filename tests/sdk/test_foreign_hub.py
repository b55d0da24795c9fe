"""Foreign checkpoints on the Hub: only what is needed is fetched; read, saved as ours, pushed, pulled, analysed."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from huggingface_hub import HfApi, ModelCard, load_state_dict_from_file
from safetensors.torch import load_file, save_file

from crosscoders import (
    CheckpointError,
    Crosscoder,
    ReleaseSpec,
    Site,
    build_crosscoder,
    hookimpl,
    inspect_pretrained,
    pretrained,
)
from crosscoders.checkpoints.checkpoint import checked_folder, load_crosscoder, save_crosscoder
from crosscoders.checkpoints.hub import push_folder
from crosscoders.checkpoints.whole_files import write_whole
from crosscoders.cli import main
from crosscoders.plugins.registry import Registry, get_registry
from crosscoders.testing import synthetic_run

DATA = Path(__file__).parent.parent / "data" / "goldens"
ALICE = "hf_alice"
NONE = {"num_weak": 0, "num_shifted": 0}


def upload(repository, folder, path_in_repo=""):
    api = HfApi(token=ALICE)
    api.create_repo(repository, exist_ok=True)
    api.upload_folder(repo_id=repository, folder_path=folder, path_in_repo=path_in_repo or None)


def fetched(hub):
    """The files that were downloaded whole."""
    got = [request.partition("/resolve/")[2] for request in hub.requests if request.startswith("GET")]
    return {path.partition("/")[2] for path in got if path and not path.endswith(" bytes")}


def test_only_the_files_of_the_match_are_fetched(hub):
    upload("alice/layers", DATA / "saelens" / "transcoder" / "files", "one/a")
    upload("alice/layers", DATA / "saelens" / "jumprelu_transcoder" / "files", "two")
    hub.requests.clear()
    made = Crosscoder.from_pretrained("alice/layers:two")
    assert fetched(hub) == {"two/cfg.json", "two/sae_weights.safetensors"}
    assert made.info.origin["repository"] == "alice/layers"
    assert made.info.origin["subfolder"] == "two"
    assert len(made.info.origin["revision"]) == 40
    same = Crosscoder.from_pretrained("alice/layers", subfolder="one/a")
    assert same.gate.name == "relu"
    with pytest.raises(CheckpointError, match="folders with weights: one/a, two"):
        Crosscoder.from_pretrained("alice/layers")
    with pytest.raises(CheckpointError, match="no files in 'three'"):
        Crosscoder.from_pretrained("alice/layers:three")


def test_inspect_reads_headers_only(hub):
    upload("alice/clt", DATA / "cf" / "cross_fp32" / "files")
    hub.requests.clear()
    found = CliRunner().invoke(main, ["inspect", "alice/clt", "--site", "in.*=m/layers.*.mlp_input"])
    assert found.exit_code == 0, found.output
    assert "slot in.2 (layer 2, input), width 12, read: m/layers.2.mlp_input" in found.output
    assert "--site 'out.*=model/layers.*.mlp'" in found.output
    assert fetched(hub) == {"clt_cfg.json"}


@pytest.mark.parametrize(
    "case",
    [
        "cg/jumprelu_per_target_connection",
        "ct/clt_divide",
        "go/plt_jumprelu_unfolded",
        "gs2/clt_affine",
        "om/clt_jumprelu",
        "saelens/topk_sub_raw",
        "sf/relu_norm_crosscoder_hub",
        "sp/transcoder",
    ],
)
def test_inspection_fetches_no_weights(case, hub):
    upload("alice/headers", DATA / case / "files")
    hub.requests.clear()
    inspect_pretrained("alice/headers")
    assert not [name for name in fetched(hub) if name.endswith(".safetensors")]
    assert len(hub.requests) < 60


def test_read_saved_pushed_pulled_and_analysed(hub, tmp_path):
    upload("alice/sf", DATA / "sf" / "btk_norm_none_hub" / "files")
    made = Crosscoder.from_pretrained("alice/sf", sites=["base/x", "chat/x"])
    url = made.push_to_hub("alice/ours", token=ALICE, licence="apache-2.0", datasets=["a/b"], base_models=["c/d"])
    assert "/commit/" in url
    again = Crosscoder.from_pretrained("alice/ours")
    x_BX = torch.randn(20, 16)
    assert torch.equal(again(x_BX), made(x_BX))
    assert again.info.origin == made.info.origin
    card = ModelCard(hub.repos["alice/ours"].commits[hub.repos["alice/ours"].refs["main"]]["README.md"].decode())
    assert (card.data.license, card.data.datasets, card.data.base_model) == ("apache-2.0", ["a/b"], ["c/d"])
    assert "alice/sf" in card.content and "Its own licence applies" in card.content
    found = CliRunner().invoke(main, ["info", "alice/ours"])
    assert "came from alice/sf, format crosscoder_learning" in found.output
    config = synthetic_run("unused", world={"width": 8, "num_shared": 4, "num_only_a": 1, "num_only_b": 1, **NONE})
    models = [f"--models={key}={json.dumps(model)}" for key, model in config["models"].items()]
    report = ["--analysis", "decoder_norms", "--tokens", "512", "--output", str(tmp_path / "report")]
    source = ["--tokens", json.dumps(config["tokens"])]
    found = CliRunner().invoke(main, ["analyse", "alice/ours", *report, *source, *models])
    assert found.exit_code == 0, found.output
    # Straight from the foreign files, where a scale that no file says is estimated on the way.
    upload("alice/ck", DATA / "ck" / "fp32_local" / "files")
    named = ["--site", "0=base/x", "--site", "1=chat/x"]
    arguments = ["analyse", "alice/ck", *report, *source, *models, *named]
    refused = CliRunner().invoke(main, [*arguments, "--analysis", "latent_scaling"])
    assert "is unknown" in refused.output
    found = CliRunner().invoke(main, [*arguments, "--analysis", "latent_scaling", "--normalisation", "estimate"])
    assert found.exit_code == 0, found.output


def test_branches_and_pull_requests(hub):
    made = build_crosscoder("sae", (Site("m/a", 4),), num_latents=8)
    made.push_to_hub("alice/branches", token=ALICE)
    made.push_to_hub("alice/branches", token=ALICE, branch="wide")
    assert {"main", "wide"} <= set(hub.repos["alice/branches"].refs)
    assert made.push_to_hub("alice/branches", token=ALICE, create_pr=True).endswith("/discussions/1")
    with pytest.raises(CheckpointError, match="pull request"):
        made.push_to_hub("alice/branches", token=ALICE, create_pr=True, branch="x")


def test_several_files_with_whole_tensors_are_read(tmp_path):
    made = build_crosscoder("acausal", (Site("m/a", 40), Site("m/b", 40)), num_latents=64)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
    folder = save_crosscoder(made, tmp_path / "saved")
    (tmp_path / "whole").mkdir()
    write_whole(*checked_folder(folder), tmp_path / "whole", largest_file=25_000)
    (folder / "model.safetensors").unlink()
    for path in (tmp_path / "whole").iterdir():
        path.rename(folder / path.name)
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    again = load_crosscoder(folder)
    assert all(torch.equal(a, b) for a, b in zip(made.state_dict().values(), again.state_dict().values()))
    stored = {}
    for path in folder.glob("model-*.safetensors"):
        stored |= load_state_dict_from_file(path)
    assert stored.keys() == made.state_dict().keys()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"b_enc_F": "../other.safetensors"}}')
    with pytest.raises(CheckpointError, match="not beside it"):
        load_crosscoder(folder)


def test_parts_of_processes_are_published_whole(hub, tmp_path):
    made = build_crosscoder("sae", (Site("m/a", 4),), num_latents=8)
    with torch.no_grad():
        made.W_enc[0].normal_()
    folder = made.save_pretrained(tmp_path / "parts")
    whole = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    for shard in range(2):
        part = {k: v.chunk(2)[shard].contiguous() if k in made.sharding else v for k, v in whole.items()}
        save_file(part, folder / f"model-{shard + 1:05d}-of-00002.safetensors")
    index = {"shards": 2, "sharding": made.sharding}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    push_folder(folder, "alice/whole", token=ALICE)
    repo = hub.repos["alice/whole"]
    names = set(repo.commits[repo.refs["main"]])
    assert "model.safetensors" in names and not any("of-00002" in name for name in names)
    assert torch.equal(Crosscoder.from_pretrained("alice/whole").W_enc[0], made.W_enc[0])


def test_a_known_release_is_loaded_by_its_name(hub):
    upload("alice/release", DATA / "sf" / "relu_norm_crosscoder_hub" / "files", "layer-13")

    class Plugin:
        @staticmethod
        @hookimpl
        def crosscoders_pretrained():
            yield ReleaseSpec(
                name="alice-l13",
                repository="alice/release",
                subfolder="layer-13",
                format="crosscoder_learning",
                family="crosscoder",
                models=("x/base", "x/chat"),
                sites={"0": "base/layers.13", "1": "chat/layers.13"},
            )

    registry = Registry.discover()
    registry.register(Plugin(), name="alice")
    assert [release.name for release in pretrained("x/chat", registry=registry)] == ["alice-l13"]
    made = Crosscoder.from_pretrained("alice-l13", registry=registry)
    assert made.layout.names == ("base/layers.13", "chat/layers.13")


def test_a_repository_of_many_checkpoints_lists_them(hub):
    for layer in (3, 4):
        upload("alice/many", DATA / "gs2" / "resid_post" / "files" / "resid_post", f"resid_post/layer_{layer}")
    with pytest.raises(CheckpointError, match="many checkpoints; folders with weights: resid_post/layer_3/"):
        Crosscoder.from_pretrained("alice/many", format="gemma_scope_2")


def test_the_table_of_releases():
    releases = pretrained()
    formats = set(get_registry().checkpoint_formats)
    assert len(releases) > 30
    assert {release.format for release in releases} <= formats
    assert all("gemma-2-2b" in " ".join(r.searched) for r in pretrained("gemma-2-2b"))
    assert pretrained("weakly causal")
    assert "mntss/clt-llama-3.2-1b-524k" in CliRunner().invoke(main, ["pretrained", "clt", "llama"]).output
    assert "no known release" in CliRunner().invoke(main, ["pretrained", "nonesuch"]).output


def test_local_files_only(hub):
    upload("alice/offline", DATA / "saelens" / "standard_nosub" / "files")
    with pytest.raises(CheckpointError, match="alice/offline"):
        Crosscoder.from_pretrained("alice/offline", local_files_only=True)
    made = Crosscoder.from_pretrained("alice/offline")
    hub.requests.clear()
    again = Crosscoder.from_pretrained("alice/offline", local_files_only=True)
    assert torch.equal(made.W_enc[0], again.W_enc[0])
    assert not hub.requests
