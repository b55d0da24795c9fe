"""Every tensor and every config of a case of each format, damaged in turn: refused by name, and never anything else."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from crosscoders import CheckpointError, Crosscoder
from crosscoders.authoring import Answers, Source
from crosscoders.checkpoints.foreign import find
from goldens import OTHERS

DATA = Path(__file__).parent.parent / "data" / "goldens"
CASES = (
    "cf/cross_fp32",
    "cg/jumprelu_per_target_connection",
    "ck/fp32_local",
    "cr_clt/relu_fp32",
    "cr_plt/jump_relu_skip",
    "ct/clt_divide",
    "go/plt_jumprelu_unfolded",
    "gs1/transcoder_npz",
    "gs2/clt_affine",
    "om/sae_topk_raw_transcoder",
    "saelens/topk_sub_raw",
    "sf/btk_norm_none_hub",
    "sm_pypi/GatedAutoEncoder",
    "sp/transcoder",
    "xc/acausal_jumprelu_folded",
)
UNUSED = ("bandwidth", "feature_count", "layer_mask", "folded_scaling_factors", "is_folded", "in_norm", "out_norm")
"""Tensors that decide nothing at inference."""
MAY_MISS = (*UNUSED, "dataset_average_activation_norm", "post_enc", "W_skips", "theta_manager")
"""Tensors without which the files mean something else, or leave a scale to be answered."""
WRONG = (None, "x", -1, 0, 1.5, [], {}, 10**12)


def read(path):
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix == ".pt":
        return dict(torch.load(path, weights_only=True))
    return {name: torch.from_numpy(value) for name, value in np.load(path).items()}


def write(path, tensors):
    if path.suffix == ".safetensors":
        save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, path)
    elif path.suffix == ".pt":
        torch.save(tensors, path)
    else:
        np.savez(path, **{name: tensor.numpy() for name, tensor in tensors.items()})


def attempt(folder, name):
    """Read with whatever may be answered; the error, if there is one of ours."""
    others = OTHERS.get(name, {})
    try:
        plan = find(Source.of(folder)).inspect(Answers(others=others))
        sites = {slot.key: "model/" + slot.key.replace(" ", "-") for slot in plan.unnamed}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Crosscoder.from_pretrained(folder, sites=sites, answers=others, normalisation="none")
    except CheckpointError as error:
        assert "cannot make sense" not in str(error), error
        return str(error)
    return ""


@pytest.fixture
def copied(request, tmp_path):
    """A case whose files may be changed."""
    folder = tmp_path / "files"
    shutil.copytree(DATA / request.param / "files", folder)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return request.param, folder


@pytest.mark.parametrize("copied", CASES, indirect=True)
def test_damaged_tensors_are_refused(copied):
    name, folder = copied
    path = min(path for path in folder.rglob("*") if path.suffix in (".safetensors", ".pt", ".npz"))
    before, tensors = path.read_bytes(), read(path)
    weights = {key: tensor for key, tensor in tensors.items() if tensor.dim() and not any(u in key for u in UNUSED)}
    for key, tensor in weights.items():
        nan = tensor.float().contiguous().clone()
        nan.view(-1)[0] = float("nan")
        damaged = {
            "missing": {other: t for other, t in tensors.items() if other != key},
            "of whole numbers": {**tensors, key: torch.ones(tensor.shape, dtype=torch.int32)},
            "with an axis too many": {**tensors, key: tensor[None]},
            "empty": {**tensors, key: tensor[:0]},
            "with NaN": {**tensors, key: nan.to(tensor.dtype)},
        }
        if tensor.dim() == 2 and len(set(tensor.shape)) == 2:
            damaged["transposed"] = {**tensors, key: tensor.T}
        for what, content in damaged.items():
            if what == "missing" and any(word in key for word in MAY_MISS):
                continue
            write(path, content)
            assert attempt(folder, name), f"{key} {what} was read"
    write(path, {**tensors, "something.new": torch.ones(3)})
    assert "something.new" in attempt(folder, name)
    path.write_bytes(before[:-7])
    assert attempt(folder, name)


@pytest.mark.parametrize("copied", [name for name in CASES if not name.startswith("gs")], indirect=True)
def test_configs_of_the_wrong_kinds_end_in_errors_of_ours(copied):
    name, folder = copied
    path = min(path for path in folder.rglob("*") if path.suffix in (".json", ".yaml"))
    before = path.read_text()
    try:
        config = yaml.safe_load(before)  # JSON is YAML too
    except yaml.constructor.ConstructorError:  # a tag of tuples
        config = {"activation_fn": {"classname": "ReLUActivation"}, "use_encoder_bias": True, "n_latents": 24}
    for key in list(config)[:12]:
        for value in WRONG:
            path.write_text(json.dumps({**config, key: value}))
            attempt(folder, name)
    for content in ("[]", '"x"', "{", "[" * 10_000, "\x00"):
        path.write_text(content)
        attempt(folder, name)


@pytest.mark.parametrize(
    ("case", "file", "key", "value", "message"),
    [
        ("saelens/topk_sub_raw", "cfg.json", "k", 0, "whole number from 1 on at 'k', not 0"),
        ("saelens/topk_sub_raw", "cfg.json", "k", 25, "k is 25, and there are 24 latents"),
        ("saelens/topk_sub_raw", "cfg.json", "apply_b_dec_to_input", "yes", "true or false at 'apply_b_dec_to_input'"),
        ("saelens/topk_sub_raw", "cfg.json", "d_sae", "24", "whole number from 1 on at 'd_sae', not '24'"),
        ("cf/cross_fp32", "clt_cfg.json", "n_layers", 10**12, "says 1000000000000 layers of width 12"),
        (
            "cg/jumprelu_untied",
            "cfg.json",
            "num_layers",
            10**12,
            "num_layers = 1000000000000, but clt.safetensors has 3",
        ),
        ("om/sae_topk_raw_transcoder", "config.json", "top_k", 10**6, "k is 1000000"),
        ("sf/btk_norm_none_hub", "config.json", "code_normalization", 3, "text at 'code_normalization', not 3"),
    ],
)
def test_a_wrong_value_is_named(case, file, key, value, message, tmp_path):
    shutil.copytree(DATA / case / "files", tmp_path / "files", copy_function=shutil.copyfile)
    config = json.loads((tmp_path / "files" / file).read_text())
    (tmp_path / "files" / file).write_text(json.dumps({**config, key: value}))
    assert message in attempt(tmp_path / "files", case)
