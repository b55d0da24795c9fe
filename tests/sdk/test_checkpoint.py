"""Saved crosscoders: exact, complete, and hostile files refused with a clear error."""

import json
import shutil
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from crosscoders import CheckpointError, Crosscoder, LatentGroup, PluginError, Registry, Site, Wiring


@pytest.fixture(scope="module")
def saved_once(planted_run, tmp_path_factory):
    crosscoder = Crosscoder.from_pretrained(planted_run / "crosscoder")
    return crosscoder.save_pretrained(tmp_path_factory.mktemp("checkpoint") / "saved")


@pytest.fixture
def saved(saved_once, tmp_path):
    """A saved crosscoder whose files may be changed."""
    return shutil.copytree(saved_once, tmp_path / "saved")


def edit_config(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def edit_tensors(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.claim("E10", "save and load: same scales, threshold, L0 and reconstruction")
def test_normaliser_threshold_and_reconstruction_survive(planted_crosscoder, saved):
    """E10: same scales, same gate, same L0, same reconstruction."""
    again = Crosscoder.from_pretrained(saved)
    x_BX = torch.randn(200, 32)
    assert torch.equal(again.normaliser.scale_S, planted_crosscoder.normaliser.scale_S)
    assert float(again.gate.threshold) == float(planted_crosscoder.gate.threshold) > 0
    assert again.encode(x_BX).l0 == planted_crosscoder.encode(x_BX).l0
    assert torch.equal(again(x_BX), planted_crosscoder(x_BX))
    assert again.info == planted_crosscoder.info


def test_config_says_where_it_came_from(saved):
    config = json.loads((saved / "config.json").read_text())
    assert config["architecture"] == {
        "name": "acausal",
        "plugin": "crosscoders-plugins",
        "distribution": "crosscoders",
        "version": config["made_with"]["crosscoders"],
        "config": {"num_latents": 32},
    }
    assert config["loss"]["name"] == "batchtopk"
    assert config["sites"] == [{"name": "base/x", "width": 16}, {"name": "chat/x", "width": 16}]
    assert config["models"]["base"]["model"] == "a" and config["models"]["base"]["config"]["world"]["width"] == 16
    assert set(config["metrics"]) >= {"explained_variance", "l0", "silent_share", "num_tokens"}


def test_card_has_sites_recipe_metrics_and_a_figure(saved):
    card = (saved / "README.md").read_text()
    assert "`base/x`" in card and "explained variance" in card and '"num_tokens": 20480' in card
    assert "![norm-share](figures/norm-share.png)" in card
    assert (saved / "figures" / "norm-share.png").read_bytes().startswith(b"\x89PNG")


def test_missing_plugin_is_named_with_its_distribution(saved):
    def rename(config):
        config["architecture"] |= {"plugin": "crosscoders-foo", "distribution": "crosscoders-foo", "version": "0.3.1"}

    edit_config(saved, rename)
    with pytest.raises(PluginError) as error:
        Crosscoder.from_pretrained(saved)
    text = str(error.value)
    assert "the plugin 'crosscoders-foo' of the distribution 'crosscoders-foo' version '0.3.1'" in text
    assert "if you trust" in text and "pip" not in text and "acausal" in text


def test_empty_registry_cannot_load(saved):
    with pytest.raises(PluginError, match="not loaded here"):
        Crosscoder.from_pretrained(saved, registry=Registry())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format=99), "format 99; this version reads 1"),
        (lambda c: c.update(library="other"), "does not describe a crosscoder"),
        (lambda c: c.update(extra=1), "unknown keys extra"),
        (lambda c: c["architecture"]["config"].update(num_latents=33), r"W_enc.0.*of shape \(32, 32\).*\(33, 32\)"),
        (lambda c: c["architecture"]["config"].update(num_latents=10**12), "of shape"),
        (lambda c: c["architecture"]["config"].update(nope=1), "nope"),
        (lambda c: c.update(sites=[{"name": "../x", "width": -1}]), "malformed site"),
        (lambda c: c.update(sites="x"), "list at 'sites'"),
        (lambda c: c.update(gate={"name": "evil"}), "no gate is called 'evil'"),
        (lambda c: c.update(gate={"name": "topk", "kk": 1}), "gate 'topk'"),
        (lambda c: c.update(architecture=None), "dict at 'architecture'"),
    ],
)
def test_damaged_config(saved, change, message):
    edit_config(saved, change)
    with pytest.raises(CheckpointError, match=message):
        Crosscoder.from_pretrained(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("b_enc_F"), "no tensor 'b_enc_F'"),
        (lambda t: t.update(evil=torch.zeros(3)), "unknown tensor 'evil'"),
        (lambda t: t.update(b_enc_F=torch.zeros(5)), r"'b_enc_F' of shape \(5,\)"),
        (lambda t: t.update(b_enc_F=torch.zeros(32, dtype=torch.bfloat16)), "fp32"),
        (lambda t: t.pop("gate.threshold"), "no tensor 'gate.threshold'"),
    ],
)
def test_damaged_weights(saved, change, message):
    edit_tensors(saved, change)
    with pytest.raises(CheckpointError, match=message):
        Crosscoder.from_pretrained(saved)


@pytest.mark.parametrize("keep", [0, 5, 100, -10])
def test_truncated_weights(saved, keep):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="damaged or incomplete"):
        Crosscoder.from_pretrained(saved)


def test_hostile_header(saved):
    (saved / "model.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    with pytest.raises(CheckpointError, match="damaged or incomplete"):
        Crosscoder.from_pretrained(saved)


def test_pickle_is_never_read(saved):
    (saved / "model.safetensors").unlink()
    torch.save({"a": 1}, saved / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"no model\.safetensors"):
        Crosscoder.from_pretrained(saved)


def test_no_config(tmp_path):
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        Crosscoder.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        Crosscoder.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match="cannot be read"):
        Crosscoder.from_pretrained(tmp_path)


def test_a_crosscoder_without_a_name_says_what_to_do():
    site = Site("m/x", 4)
    crosscoder = Crosscoder(Wiring(sites=(site,), groups=(LatentGroup("all", 3, ("m/x",), ("m/x",)),)))
    with pytest.raises(CheckpointError, match="CheckpointInfo.from_architecture"):
        crosscoder.save_pretrained("nowhere")


def test_saving_over_an_old_one_replaces_it_whole(planted_crosscoder, saved, monkeypatch):
    import crosscoders.checkpoints.card

    before = (saved / "config.json").read_text()

    def fail(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(crosscoders.checkpoints.card, "write_card", fail)
        with pytest.raises(KeyboardInterrupt):
            planted_crosscoder.save_pretrained(saved)
    assert (saved / "config.json").read_text() == before
    assert [path.name for path in saved.parent.iterdir()] == ["saved"]
    planted_crosscoder.save_pretrained(saved)
    assert [path.name for path in saved.parent.iterdir()] == ["saved"]
