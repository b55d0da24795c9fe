"""Files that were changed since: kernels, checkpoints, states and caches are what was written, or they are refused."""

import json
import os
import shutil
import stat
import sys

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from crosscoders import CheckpointError, Crosscoder, Site, build_crosscoder
from crosscoders.cli import main
from crosscoders.kernels import compiler, native, reference
from crosscoders.training import optimizer
from crosscoders.training.resume import latest_state

NEEDS_NATIVE = pytest.mark.skipif(not native.available(), reason="no compiled kernels here")

# -- compiled kernels ---------------------------------------------------------------------------------------------


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A kept library (of our own text), and what finds it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "lib.so").write_bytes(b"code")
    compiler._keep(tmp_path / "lib.so", compiler.cache_folder(), "native-1")
    (path,) = compiler.cache_folder().iterdir()
    return path


def found(path):
    return compiler._kept(path.parent, "native-1")


def test_kernels_are_kept_in_a_folder_of_the_users_own(kept):
    assert found(kept) == kept
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700 and stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_damaged_kernels_are_never_loaded(kept):
    kept.write_bytes(b"cod")
    assert found(kept) is None and not kept.exists()


@pytest.mark.parametrize("who", ["folder", "file"])
def test_kernels_that_others_may_write_are_not_loaded(kept, who):
    (kept.parent if who == "folder" else kept).chmod(0o777)
    assert found(kept) is None and kept.exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("who", ["folder", "file"])
def test_kernels_of_another_user_are_not_loaded(kept, who):
    os.chown(kept.parent if who == "folder" else kept, 65534, 65534)
    assert found(kept) is None and kept.exists()


def test_links_are_not_followed(kept, tmp_path):
    (tmp_path / "elsewhere").write_bytes(kept.read_bytes())
    kept.unlink()
    kept.symlink_to(tmp_path / "elsewhere")
    assert found(kept) is None


def test_a_relative_cache_home_is_ignored(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert str(compiler.cache_folder()) == "/home/somebody/.cache/crosscoders"


# -- operations that torch does not promise -----------------------------------------------------------------------


def test_row_dots_without_the_private_operation(monkeypatch):
    rows, table = torch.randn(5, 4), torch.randn(6, 4)
    token_N, latent_N = torch.tensor([0, 0, 3, 4]), torch.tensor([1, 5, 2, 0])
    assert hasattr(torch.ops.aten, "_embedding_bag_per_sample_weights_backward")
    expected = reference.row_dots(rows, table, token_N, latent_N)
    monkeypatch.setattr(reference, "ROW_DOTS", "_gone")
    torch.testing.assert_close(reference.row_dots(rows, table, token_N, latent_N), expected)


@pytest.mark.parametrize("foreach", [True, False])
def test_clipping_without_private_operations(monkeypatch, foreach):
    assert optimizer._SCALES_BY_ITSELF and hasattr(torch, "_foreach_mul_")
    monkeypatch.setattr(optimizer, "_SCALES_BY_ITSELF", False)
    if not foreach:
        monkeypatch.delattr(torch, "_foreach_mul_")
    parameter = torch.nn.Parameter(torch.zeros(3))
    parameter.grad = torch.ones(3)
    optimizer.scale_gradient(torch.optim.Adam([parameter], fused=True), [parameter], torch.tensor(0.5))
    assert torch.equal(parameter.grad, torch.full((3,), 0.5))


# -- checkpoints --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved_once(tmp_path_factory):
    crosscoder = build_crosscoder("acausal", (Site("m/a", 4), Site("m/b", 3)), num_latents=8)
    with torch.no_grad():
        for parameter in crosscoder.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(0))
    return crosscoder.save_pretrained(tmp_path_factory.mktemp("trust") / "saved")


@pytest.fixture
def saved(saved_once, tmp_path):
    """A saved crosscoder whose files may be changed."""
    return shutil.copytree(saved_once, tmp_path / "saved")


def edit(folder, change, file="config.json"):
    data = json.loads((folder / file).read_text())
    change(data)
    (folder / file).write_text(json.dumps(data))


def test_a_flipped_bit_in_the_weights_is_found(saved):
    data = bytearray((saved / "model.safetensors").read_bytes())
    data[-3] ^= 1
    (saved / "model.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged: its tensors are not those of its checksum"):
        Crosscoder.from_pretrained(saved)


def test_weights_that_another_program_wrote_again_are_read(saved):
    save_file(load_file(saved / "model.safetensors"), saved / "model.safetensors")
    assert Crosscoder.from_pretrained(saved).num_latents == 8


def test_another_name_of_a_site_is_found_unless_it_is_meant(saved):
    edit(saved, lambda config: config["sites"][0].update(name="m/c"))
    with pytest.raises(CheckpointError, match="remove the key 'checksum'"):
        Crosscoder.from_pretrained(saved)
    edit(saved, lambda config: config.pop("checksum"))
    assert Crosscoder.from_pretrained(saved).layout.names == ("m/c", "m/b")


@pytest.mark.parametrize("value", [999_999, "many", -5, None])
def test_the_number_of_latents_is_compared(saved, value):
    edit(saved, lambda config: config.update(num_latents=value))
    with pytest.raises(CheckpointError, match="num_latents"):
        Crosscoder.from_pretrained(saved)


@pytest.mark.parametrize("width", [2**31, 10**12, 2**62, 2**63, 10**30])
def test_impossible_sizes_take_no_memory(saved, width):
    edit(saved, lambda config: config["sites"][1].update(width=width))
    with pytest.raises(CheckpointError):
        Crosscoder.from_pretrained(saved)
    edit(
        saved,
        lambda config: (config["sites"][1].update(width=3), config["architecture"]["config"].update(num_latents=width)),
    )
    with pytest.raises(CheckpointError):
        Crosscoder.from_pretrained(saved)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_cast_and_that_is_said(saved, dtype, tmp_path, caplog):
    whole = Crosscoder.from_pretrained(saved)
    x_BX = torch.randn(20, 7, generator=torch.Generator().manual_seed(2))
    expected = whole(x_BX)
    whole.to(dtype).save_pretrained(tmp_path / "other")
    again = Crosscoder.from_pretrained(tmp_path / "other")
    assert {parameter.dtype for parameter in again.parameters()} == {torch.float32}
    assert f"is in {dtype}; its weights are cast to fp32" in caplog.text
    torch.testing.assert_close(again(x_BX), expected, rtol=0.1, atol=0.2)


EVIL = "\x1b[2J\x1b]0;owned\x07\u202e"


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["architecture"].update(name=EVIL),
        lambda c: c["architecture"].update(version=EVIL),
        lambda c: c.update(gate={"name": EVIL}),
        lambda c: c.update({EVIL: 1}),
        lambda c: c.update(models={EVIL: {"model": EVIL}}),
        lambda c: c["sites"][0].pop("name"),
        lambda c: c.update(metrics={"l0": "x", "explained_variance": {"m/a": "x"}}),
        lambda c: c.update(models=1),
        lambda c: c["architecture"].pop("distribution"),
    ],
)
def test_info_of_a_strangers_file(saved, change):
    edit(saved, change)
    found = CliRunner().invoke(main, ["info", str(saved)])
    assert found.exception is None or isinstance(found.exception, SystemExit)
    assert found.output.replace("\n", "").isprintable()


# -- states -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run_with_state(tmp_path_factory):
    from crosscoders import train
    from runs import config_of

    folder = tmp_path_factory.mktemp("run")
    train(config_of(folder, training={"num_tokens": 1024, "save_every": 2, "evaluation_tokens": 256}), quiet=True)
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update({"optimizer.2.exp_avg": torch.zeros(3)}), r"'optimizer.2.exp_avg' of shape \(3,\)"),
        (lambda t: t.pop("optimizer.2.exp_avg_sq"), "no tensor 'optimizer.2.exp_avg_sq'"),
        (lambda t: t.update(evil=torch.zeros(3)), "an unknown tensor 'evil'"),
        (lambda t: t.update({"crosscoder.b_enc_F": t["crosscoder.b_enc_F"].half()}), "in float16 instead of"),
        (lambda t: t.update({"rng.cpu": t["rng.cpu"][:9].clone()}), "rng.cpu"),
        (lambda t: t.update({"rng.cpu": t["rng.cpu"] * 0 + 255}), "rng.cpu"),
        (lambda t: t.pop("extra.median_norm_S"), "median_norm_S"),
    ],
)
def test_a_state_of_another_shape_is_refused_before_it_is_used(run_with_state, tmp_path, change, message):
    from crosscoders import train
    from runs import config_of

    step = latest_state(run_with_state / "checkpoints")
    copy = shutil.copytree(step, tmp_path / "checkpoints" / step.name)
    tensors = load_file(copy / "state.safetensors")
    change(tensors)
    save_file(tensors, copy / "state.safetensors")
    config = config_of(tmp_path, training={"num_tokens": 1024, "save_every": 2, "evaluation_tokens": 256})
    with pytest.raises(CheckpointError, match=message):
        train(config, quiet=True)


def test_a_changed_position_is_found(run_with_state, tmp_path):
    from crosscoders import train
    from runs import config_of

    step = latest_state(run_with_state / "checkpoints")
    copy = shutil.copytree(step, tmp_path / "checkpoints" / step.name)
    edit(copy, lambda state: state.update(position={"stream": {}, "history": []}), "state.json")
    config = config_of(tmp_path, training={"num_tokens": 1024, "save_every": 2, "evaluation_tokens": 256})
    with pytest.raises(CheckpointError, match="checksum"):
        train(config, quiet=True)


def test_full_disks_and_missing_rights_are_one_line(monkeypatch, tmp_path):
    def full(*_, **__):
        raise OSError(28, "No space left on device", str(tmp_path / "model.safetensors"))

    monkeypatch.setattr("crosscoders.checkpoints.description.read_json", full)
    found = CliRunner().invoke(main, ["info", str(tmp_path)])
    assert found.exit_code == 1 and found.output.endswith("model.safetensors: No space left on device\n")
    assert len(found.output.splitlines()) == 1 and sys.platform
