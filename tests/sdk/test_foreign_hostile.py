"""Files of other libraries that want more than to be read: each ends in an error of ours, and costs next to nothing."""

import json
import os
import pickle
import resource
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from crosscoders import CheckpointError, Crosscoder

DATA = Path(__file__).parent.parent / "data" / "goldens"
CK = DATA / "ck" / "fp32_local" / "files"
STATE = {
    "W_enc": torch.ones(2, 8, 24),
    "W_dec": torch.ones(24, 2, 8),
    "b_enc": torch.zeros(24),
    "b_dec": torch.zeros(2, 8),
}


def read(folder):
    """A pair whose files do not say their gate."""
    return Crosscoder.from_pretrained(folder, sites=["a/0", "b/0"], answers={"gate": "relu"})


def read_pair(folder):
    """A pair whose files do."""
    return Crosscoder.from_pretrained(folder, sites=["a/0", "b/0"])


def safetensors(path, header, data=b""):
    """A file with any header."""
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


class Call:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def repacked(path, compression=zipfile.ZIP_STORED, pickled=None):
    """The same `.pt` file, packed anew, perhaps with another pickle."""
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, pickled if pickled and name.endswith("data.pkl") else content)


@pytest.mark.parametrize(
    "call",
    [
        Call(os.system, "touch ran"),
        Call(Path.touch, Path("ran")),
        Call(bytearray, 10**11),
        Call(eval, "open('ran', 'w')"),
        Call(torch.zeros, 10**11),
    ],
)
def test_no_pickle_is_run(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "files"
    folder.mkdir()
    torch.save(STATE, folder / "0.pt")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for payload in ({"W_enc": call}, {**dict.fromkeys(STATE, 1), "W_enc": [call]}):
        repacked(folder / "0.pt", pickled=pickle.dumps(payload, protocol=2))
        with pytest.raises(CheckpointError, match="0.pt"):
            read(folder)
        (folder / "0.pt").write_bytes(pickle.dumps(payload, protocol=2))
        with pytest.raises(CheckpointError, match="0.pt"):
            read(folder)
        torch.save(STATE, folder / "0.pt")
    assert not (tmp_path / "ran").exists()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes


def test_pt_files_that_unpack_to_more_than_they_are(tmp_path):
    torch.save(STATE, tmp_path / "0.pt")
    repacked(tmp_path / "0.pt", zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="is compressed"):
        read(tmp_path)
    one = torch.ones(1)
    huge = {
        "W_enc": one.expand(2, 10**6, 10**6),
        "W_dec": one.expand(10**6, 2, 10**6),
        "b_enc": one.expand(10**6),
        "b_dec": one.expand(2, 10**6),
    }
    torch.save(huge, tmp_path / "0.pt")
    with pytest.raises(CheckpointError, match="is said to hold 16000012000000 bytes of tensors, and has"):
        read(tmp_path)


def test_pt_files_in_any_order_of_axes_and_of_old_torch(tmp_path):
    generator = torch.Generator().manual_seed(4)
    state = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in STATE.items()}
    torch.save(state, tmp_path / "0.pt")
    expected = read(tmp_path).state_dict()
    padded = torch.zeros(24, 2, 9)
    padded[..., :8] = state["W_dec"]
    views = {
        **state,
        "W_enc": state["W_enc"].permute(2, 0, 1).contiguous().permute(1, 2, 0),
        "W_dec": padded[..., :8],
        "b_enc": torch.stack([state["b_enc"]] * 2, dim=1)[:, 0],
    }
    for options in ({}, {"_use_new_zipfile_serialization": False}):
        torch.save(views, tmp_path / "0.pt", **options)
        found = read(tmp_path).state_dict()
        assert all(torch.equal(found[key], expected[key]) for key in expected if key != "normaliser.scale_S")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entry: entry.update(shape=[10**9, 10**9]), "is said to take"),
        (lambda entry: entry.update(shape=[-1, 24]), "is said to take"),
        (lambda entry: entry.update(shape=[2.0, 8.0, 24.0]), "is said to take"),
        (lambda entry: entry.update(shape="x"), "is said to take"),
        (lambda entry: entry.update(dtype="F1"), "its header says"),
        (lambda entry: entry.update(data_offsets=[-96, 0]), "is said to take"),
        (lambda entry: entry.update(data_offsets=[0, 10**15]), "is said to take"),
        (lambda entry: entry.update(shape=[10**9], dtype="F32", data_offsets=[0, 4 * 10**9]), "overlap"),
        (lambda entry: entry.pop("shape"), "its header says"),
    ],
)
def test_safetensors_headers_that_lie(change, message, tmp_path):
    header, at = {}, 0
    for name, tensor in STATE.items():
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [at, at + tensor.nbytes]}
        at += tensor.nbytes
    names = {"W_enc": "encoder.weight", "W_dec": "decoder.weight", "b_enc": "encoder.bias", "b_dec": "decoder.bias"}
    header = {names[name]: entry for name, entry in header.items()}
    change(header["encoder.weight"])
    safetensors(tmp_path / "model.safetensors", header, b"\0" * at)
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path)


def test_safetensors_that_share_bytes(tmp_path):
    """Many tensors over the same bytes would make much of little."""
    entry = {"dtype": "F32", "shape": [2, 8, 24], "data_offsets": [0, 1536]}
    safetensors(tmp_path / "model.safetensors", {"encoder.weight": entry, "decoder.weight": entry}, b"\0" * 1536)
    with pytest.raises(CheckpointError, match="overlap"):
        read(tmp_path)


def test_npz_files_that_unpack_to_much(tmp_path):
    names = {"W_enc": (2000, 2000), "W_dec": (2000, 2000), "b_enc": 2000, "b_dec": 2000, "threshold": 2000}
    np.savez_compressed(tmp_path / "params.npz", **{name: np.zeros(shape, np.float32) for name, shape in names.items()})
    with pytest.raises(CheckpointError, match="unpacks to 32"):
        read(tmp_path)
    np.savez(tmp_path / "params.npz", **{name: np.array([None]) for name in names})
    with pytest.raises(CheckpointError, match="Python objects"):
        read(tmp_path)
    with zipfile.ZipFile(tmp_path / "params.npz", "w") as archive:
        header = b"\x93NUMPY\x01\x00\x46\x00" + b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000)}"
        for name in names:
            archive.writestr(f"{name}.npy", header.ljust(80) + b"\n")
    with pytest.raises(CheckpointError, match=r"said to take|damaged"):
        read(tmp_path)


def test_npz_columns_first_and_compressed(tmp_path):
    random = np.random.default_rng(0)
    shapes = {"W_enc": (8, 24), "W_dec": (24, 8), "b_enc": (24,), "b_dec": (8,), "threshold": (24,)}
    arrays = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    made = []
    for save, order in ((np.savez, "C"), (np.savez, "F"), (np.savez_compressed, "C"), (np.savez_compressed, "F")):
        save(tmp_path / "params.npz", **{name: np.asarray(value, order=order) for name, value in arrays.items()})
        made.append(Crosscoder.from_pretrained(tmp_path, sites=["a/0"], answers={"kind": "sae"}).state_dict())
    assert all(torch.equal(one[key], made[0][key]) for one in made for key in made[0])


def test_links_that_lead_out_of_the_folder(tmp_path):
    folder = tmp_path / "files"
    shutil.copytree(CK, folder)
    secret = tmp_path / "elsewhere.json"
    (folder / "0_cfg.json").rename(secret)
    (folder / "0_cfg.json").symlink_to(secret)
    with pytest.raises(CheckpointError, match="0_cfg.json .*leads out of the folder"):
        read_pair(folder)
    (folder / "0_cfg.json").unlink()
    (folder / "inside.json").write_bytes(secret.read_bytes())
    (folder / "0_cfg.json").symlink_to("inside.json")
    assert read_pair(folder).num_latents == 24
    (tmp_path / "named").symlink_to(folder)
    assert read_pair(tmp_path / "named").num_latents == 24
    (folder / "1.pt").symlink_to(folder / "missing.pt")  # leads nowhere, and is not a file
    assert read_pair(folder).num_latents == 24


def test_folders_without_weights(tmp_path):
    with pytest.raises(CheckpointError, match="it has no files"):
        read(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="does not describe a crosscoder of this library"):
        read(tmp_path)
    with pytest.raises(CheckpointError, match="could not be fetched|not a folder"):
        read(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("config", "weights"),
    [
        ("saelens/topk_sub_raw", "sp/sae_topk_free"),
        ("sm_pypi/GatedAutoEncoder", "sm_pypi/AutoEncoder"),
        ("saelens/gated_sub", "saelens/jumprelu_nosub"),
        ("om/clt_jumprelu", "om/crosscoder_relu"),
        ("xc/acausal_jumprelu_folded", "xc/clt_relu_skip"),
        ("go/plt_jumprelu_unfolded", "go/clt_relu_folded"),
        ("cf/per_layer_fp32", "cf/cross_fp32"),
        ("cg/relu_untied", "cg/jumprelu_per_target_connection"),
        ("sf/btk_plain_sae_pt", "sf_2025_01/relu_pt"),
    ],
)
def test_a_config_over_weights_of_another_kind(config, weights, tmp_path):
    configs = [path for path in (DATA / config / "files").rglob("*") if path.suffix in (".json", ".yaml")]
    tensors = [path for path in (DATA / weights / "files").rglob("*") if path.suffix in (".pt", ".safetensors")]
    names = {path.name for path in (DATA / config / "files").rglob("*") if path.suffix in (".pt", ".safetensors")}
    for path in configs:
        shutil.copyfile(path, tmp_path / path.name)
    for name, path in zip(sorted(names), sorted(tensors)):
        shutil.copyfile(path, tmp_path / name)
    with pytest.raises(CheckpointError):
        Crosscoder.from_pretrained(tmp_path, normalisation="none")


@pytest.mark.parametrize("case", ["cr_clt/relu_fp32", "cr_plt/relu", "gs2/clt_affine", "ct/clt_divide"])
def test_layers_with_a_gap(case, tmp_path):
    shutil.copytree(DATA / case / "files", tmp_path / "files", copy_function=shutil.copyfile)
    for path in (tmp_path / "files").rglob("*"):
        if path.is_file() and any(f"{mark}1" in str(path) for mark in ("dec_", "enc_", "layer_", "layers.")):
            path.unlink()
    with pytest.raises(CheckpointError, match=r"1\.safetensors|n_targets"):
        Crosscoder.from_pretrained(tmp_path / "files", normalisation="none", answers={"gate": "relu"})


def test_a_bomb_costs_no_memory(tmp_path):
    """In a process whose memory is limited: a declared size is never allocated before it is known to be there."""
    width = 20_000
    entries = {"encoder.weight": (1, width, width), "decoder.weight": (1, width, width)}
    entries |= {"encoder.bias": (width,), "decoder.bias": (1, width)}
    header, at = {}, 0
    for name, shape in entries.items():
        size = 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    safetensors(tmp_path / "model.safetensors", header, b"\0" * 100)
    script = f"""
import resource
from crosscoders import CheckpointError, Crosscoder
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    Crosscoder.from_pretrained({str(tmp_path)!r}, sites=["a/0"])
except CheckpointError as error:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, error)
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    grown, _, message = found.stdout.partition(" ")
    assert "damaged or incomplete" in message
    assert int(grown) < 300_000  # kilobytes, of imports


def test_tensors_of_two_families_beside_each_other(tmp_path):
    shutil.copyfile(CK / "0.pt", tmp_path / "0.pt")
    save_file({"enc": torch.ones(3)}, tmp_path / "other.safetensors")
    assert read(tmp_path).num_latents == 24
