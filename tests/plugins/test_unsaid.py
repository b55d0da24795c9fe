"""What other libraries' files do not say: asked for or taken as their own loaders take it, and said in either case."""

import json
import shlex
import warnings
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from crosscoders import CheckpointError, Crosscoder, inspect_pretrained
from crosscoders.cli import main
from goldens import answered

DATA = Path(__file__).parent.parent / "data" / "goldens"
TOPK = DATA / "cr_plt" / "topk_skip"
SITES = ["base/layers.14", "chat/layers.14"]


def run(*arguments):
    """A command's output."""
    found = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert found.exit_code == 0, found.output
    return found.output


def test_a_gate_that_no_file_says_is_relu_with_a_warning_or_what_is_answered():
    sites = answered(TOPK)["sites"]
    with pytest.warns(UserWarning, match="no thresholds.*taken as 'relu'.*'gate': 'topk'"):
        made = Crosscoder.from_pretrained(TOPK / "files", sites=sites)
    assert made.gate.name == "relu"
    assert any("taken as 'relu'" in text for text in made.info.origin["assumed"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = Crosscoder.from_pretrained(TOPK / "files", sites=sites, answers={"gate": "relu"})
    assert made.info.origin["answers"]["others"] == {"gate": "relu"}
    assert not any("taken as" in text for text in made.info.origin["assumed"])


def test_an_answer_may_bring_another_question():
    sites = answered(TOPK)["sites"]
    with pytest.raises(CheckpointError, match=r"how many latents.*answers=\{'k': 12\}"):
        Crosscoder.from_pretrained(TOPK / "files", sites=sites, answers={"gate": "topk"})
    with pytest.raises(CheckpointError, match="'k' should be a whole number from 1 on, not 0"):
        Crosscoder.from_pretrained(TOPK / "files", sites=sites, answers={"gate": "topk", "k": 0})
    with pytest.raises(CheckpointError, match="k is 13, and there are 36 latents in 3 groups"):
        Crosscoder.from_pretrained(TOPK / "files", sites=sites, answers={"gate": "topk", "k": 13})
    with pytest.raises(CheckpointError, match="'gate' should be 'relu' or 'topk', not 'tpok'"):
        Crosscoder.from_pretrained(TOPK / "files", sites=sites, answers={"gate": "tpok"})


def test_negative_latents_of_their_topk_are_off_here():
    golden = load_file(TOPK / "golden.safetensors")
    with pytest.warns(UserWarning, match="never below 0"):
        made = Crosscoder.from_pretrained(TOPK / "files", **answered(TOPK))
    f_BF = made.encode(dict(zip(made.wiring.read.names, golden["x"]))).dense()
    theirs_BF = golden["f"].transpose(0, 1).flatten(1)
    assert bool((theirs_BF < 0).any())
    torch.testing.assert_close(f_BF, theirs_BF.clamp_min(0), rtol=1e-5, atol=1e-6)


def test_an_answer_that_nobody_asked_for_is_said():
    with pytest.warns(UserWarning, match="answers= names colour, but of this sparse autoencoder nothing is asked"):
        Crosscoder.from_pretrained(DATA / "saelens" / "standard_nosub" / "files", answers={"colour": "red"})


@pytest.mark.parametrize(
    ("case", "config"),
    [
        ("xc/acausal_relu_folded", "model_cfg.yaml"),
        ("go/clt_relu_folded", "config.yaml"),
        ("ck/fp32_local", "0_cfg.json"),
    ],
)
def test_without_its_config_the_gate_is_not_said(case, config, tmp_path):
    for path in (DATA / case / "files").iterdir():
        if path.name != config:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    plan = inspect_pretrained(tmp_path)
    assert [(question.key, question.assumed) for question in plan.questions] == [("gate", "relu")]
    sites = {slot.key: f"m/{slot.key.replace(' ', '-')}" for slot in plan.slots}
    made = Crosscoder.from_pretrained(tmp_path, sites=sites, answers={"gate": "topk", "k": 3})
    assert (made.gate.name, made.gate.k, made.gate.by) == ("topk", 3, "activation")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = Crosscoder.from_pretrained(DATA / case / "files", sites=sites)
        relu = Crosscoder.from_pretrained(tmp_path, sites=sites, answers={"gate": "relu"})
    assert all(torch.equal(a, b) for a, b in zip(relu.parameters(), whole.parameters()))


def test_openmoss_without_a_word_on_norms_has_unknown_scales(tmp_path):
    files = DATA / "om" / "sae_relu_raw_sae" / "files"
    config = json.loads((files / "config.json").read_text())
    del config["norm_activation"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors = files / "sae_weights.safetensors"
    (tmp_path / tensors.name).write_bytes(tensors.read_bytes())
    norms = [name for name in load_file(tensors) if name.startswith("dataset_average")]
    assert bool(inspect_pretrained(tmp_path).unknown_scales) == (not norms)


@pytest.mark.parametrize("masked", [False, True])
def test_dedicated_features_that_keep_the_k_largest(masked, tmp_path):
    """By the equations of the code that trains them: relu, the k largest, rows times their mask."""
    generator = torch.Generator().manual_seed(2)
    width, latents, k = 6, 20, 4
    shapes = {"W_enc": (2, width, latents), "W_dec": (latents, 2, width), "b_enc": (latents,), "b_dec": (2, width)}
    state = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    mask_FS = torch.ones(latents, 2)
    mask_FS[:4, 1], mask_FS[4:8, 0] = 0, 0
    torch.save({**state, **({"enc_mask": mask_FS.T, "dec_mask": mask_FS} if masked else {})}, tmp_path / "model.pt")
    (tmp_path / "config.json").write_text(json.dumps({"activation_dim": width, "dict_size": latents, "k": k}))
    made = Crosscoder.from_pretrained(tmp_path, sites=SITES, normalisation="none")
    x_BSD = torch.randn(30, 2, width, generator=generator)
    pre_BF = (torch.einsum("bsd,sdf->bf", x_BSD, state["W_enc"]) + state["b_enc"]).relu()
    f_BF = torch.zeros_like(pre_BF).scatter(1, pre_BF.topk(k).indices, pre_BF.topk(k).values)
    W_dec = state["W_dec"] * mask_FS[..., None] if masked else state["W_dec"]
    x_hat = torch.einsum("bf,fsd->bsd", f_BF, W_dec) + state["b_dec"]
    torch.testing.assert_close(made.encode(x_BSD.flatten(1)).dense(), f_BF)
    torch.testing.assert_close(made(x_BSD.flatten(1)), x_hat.flatten(1))


@pytest.mark.parametrize(
    ("case", "given"),
    [
        ("ck/fp32_local", []),
        ("sf/btk_norm_mixed_pt", []),
        ("sf/btk_norm_mixed_pt", ["--answer", "alpha_sae=0.5", "--site", "0=a/x"]),
        ("cr_plt/topk_skip", ["--answer", "gate=topk"]),
        ("gs1/transcoder_npz", []),
        ("go/clt_relu_folded", ["--format", "crosslayer_transcoder"]),
        ("saelens/standard_expected_average_only_in", ["--normalisation", "0=0.25"]),
        ("xc/acausal_relu", []),
    ],
)
def test_the_next_command_that_inspect_prints_works(case, given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed = run("inspect", DATA / case / "files", *given).splitlines()[-1]
    words = shlex.split(printed.removeprefix("next: "))
    assert words[:2] == ["crosscoders", "convert"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert "saved: FOLDER" in run(*words[1:])
    next_one = run("inspect", "FOLDER").splitlines()[-1]
    assert next_one == "next: crosscoders info FOLDER"
    assert "came from files" in run("info", "FOLDER")


def test_how_targets_count_is_asked_where_earlier_rows_are_not_zero(tmp_path):
    """Rows before the source are zero where targets are layers; else they may count from the source on."""
    folder = tmp_path / "crosscoder" / "layer_7_13_17_22_width_1k_l0_medium"
    folder.mkdir(parents=True)
    blocks = {n: torch.randn(10, 4, 6) for n in range(4)}
    for n, w_dec in blocks.items():
        w_dec[:, 4 - n :] = 0
        tensors = {"w_enc": torch.randn(6, 10), "w_dec": w_dec, "b_enc": torch.zeros(10), "b_dec": torch.zeros(6)}
        save_file({**tensors, "threshold": torch.full((10,), 0.5)}, folder / f"params_layer_{n}.safetensors")
    with pytest.warns(UserWarning, match="taken as 'absolute'.*'targets': 'relative'"):
        made = Crosscoder.from_pretrained(tmp_path)
    torch.testing.assert_close(made.decoder_weight(1)[:, :6], blocks[1][:, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = Crosscoder.from_pretrained(tmp_path, answers={"targets": "relative"})
    for n, group in enumerate(made.wiring.groups):
        assert len(group.writes) == 4 - n
        torch.testing.assert_close(made.decoder_weight(n), blocks[n][:, : 4 - n].flatten(1))


def test_the_older_layout_of_openmoss_is_named(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "final.safetensors").write_bytes(b"")
    (tmp_path / "hyperparams.json").write_text(json.dumps({"d_model": 8, "d_sae": 24, "jump_relu_threshold": 1.0}))
    with pytest.raises(CheckpointError, match="older layout"):
        Crosscoder.from_pretrained(tmp_path)
