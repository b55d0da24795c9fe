"""Every variant trains from its example file by the command, on the shipped pair's layers and on planted worlds."""

import json
import tomllib
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from crosscoders import Crosscoder, ModelChoice, RunConfig, get_registry, train
from crosscoders.cli import main
from crosscoders.models.tokens import TokenBatch

EXAMPLES = Path(__file__).parent.parent / "examples" / "variants"
FILES = sorted(EXAMPLES.rglob("*.toml"))
NAMES = {
    "tiny-pair": [f.stem for f in FILES if f.parent.name == "tiny-pair"],
    "planted": [f.stem for f in FILES if f.parent.name == "planted"],
}


pytestmark = pytest.mark.usefixtures("restored_environment")


def test_every_architecture_and_every_world_has_its_examples():
    assert NAMES["tiny-pair"] == NAMES["planted"]
    used = {tomllib.loads(file.read_text())["architecture"]["name"] for file in FILES}
    # `explicit` is any of them written out as its table: what other libraries' checkpoints come in as.
    assert used == set(get_registry().architectures) - {"explicit"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_example_is_a_config(file):
    assert RunConfig.from_toml(file).sites


def example(file):
    """Of the shipped pair, one of each kind of run is among the quick tests: layers, outputs, two models, snapshots."""
    quick = file.parent.name == "planted" or file.stem in ("acausal", "strictly-causal", "delta", "snapshots")
    return pytest.param(file, id=f"{file.parent.name}/{file.stem}", marks=[] if quick else pytest.mark.slow)


@pytest.mark.parametrize("file", map(example, FILES))
def test_example_is_short_trains_by_command_and_reloads_bit_equal(file, tmp_path):
    """A shortened run; the files themselves train for about a minute."""
    text = file.read_text()
    assert text.count("\n") < 25
    shorter = {
        "[training]": "[initialisation]\nencoder_scale = 0.25\n[training]",  # so few steps do not undo a large start
        "num_tokens = 400_000": "num_tokens = 3072",
        "evaluation_tokens = 32_768": "evaluation_tokens = 256\nfidelity_tokens = 64",
        "batch_size = 1024": "batch_size = 128",
        "lr = 1e-3": "lr = 8e-3",
        "num_latents = 2048": "num_latents = 256",
        "num_tokens = 500_000": "num_tokens = 3072\nevaluation_tokens = 256\nfidelity_tokens = 128",
        "batch_size = 2048": "batch_size = 128",
        "lr = 3e-3": "lr = 1e-2",
        "[activations]": "[activations]\nblock_tokens = 1024\ncalibration_tokens = 512\nrows_per_forward = 8",
    }
    if "[activations]" not in text:
        text += "\n[activations]\n"
    for key, value in shorter.items():
        text = text.replace(key, value)
    (tmp_path / "run.toml").write_text(text)
    found = CliRunner().invoke(
        main, ["train", str(tmp_path / "run.toml"), "--output", str(tmp_path / "run"), "--quiet"]
    )
    assert found.exit_code == 0, found.output
    saved = tmp_path / "run" / "crosscoder"
    crosscoder, again = (Crosscoder.from_pretrained(saved) for _ in range(2))
    x_BX = 3 * torch.randn(16, crosscoder.layout.width, generator=torch.Generator().manual_seed(0))
    assert torch.equal(crosscoder(x_BX), again(x_BX))
    crosscoder.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (saved / "model.safetensors").read_bytes()
    metrics = json.loads((saved / "config.json").read_text())["metrics"]
    assert min(metrics["explained_variance"].values()) > 0.1, metrics
    assert metrics["l0"] > 0.5


def test_snapshots_by_revision_on_the_hub(hub, tmp_path):
    """One repository, two revisions: the base model as an early commit, the chat model as a later one."""
    from huggingface_hub import HfApi

    pair = Path(__file__).parent.parent / "adapters" / "crosscoders_adapters" / "tiny_pair"
    api = HfApi(token="hf_alice")
    api.create_repo("alice/tiny")
    commits = [api.upload_folder(repo_id="alice/tiny", folder_path=pair / name).oid for name in ("base", "chat")]
    api.create_tag("alice/tiny", tag="step1000", revision=commits[0])
    models = {
        "step1000": {"name": "transformers", "model": "alice/tiny", "revision": "step1000"},
        "main": {"name": "transformers", "model": "alice/tiny"},
    }
    data = tomllib.loads((EXAMPLES / "tiny-pair" / "snapshots.toml").read_text())
    data |= {
        "models": models,
        "sites": ["step1000/layers.2", "main/layers.2"],
        "output": str(tmp_path),
        "device": "cpu",
    }
    data["training"] |= {"num_tokens": 1024, "evaluation_tokens": 512, "fidelity_tokens": 0}
    data["activations"] |= {"block_tokens": 1024, "calibration_tokens": 512, "rows_per_forward": 4}
    crosscoder = train(RunConfig.from_dict(data), quiet=True)
    assert [crosscoder.info.models[key]["revision"] for key in models] == commits
    ids = torch.arange(5, 13)[None]
    none = torch.zeros_like(ids, dtype=torch.bool)
    for key, name in (("step1000", "base"), ("main", "chat")):
        recorded = crosscoder.info.recipe["models"][key]
        options = {k: v for k, v in recorded.items() if k != "name"}
        loaded = ModelChoice.of("transformers", **options).build()
        found = loaded.activations(TokenBatch(ids, ~none, none, none), ["layers.2"])
        shipped = ModelChoice.of("transformers", model=f"tiny-pair/{name}").build()
        expected = shipped.activations(TokenBatch(ids, ~none, none, none), ["layers.2"])
        assert torch.equal(found["layers.2"], expected["layers.2"])
