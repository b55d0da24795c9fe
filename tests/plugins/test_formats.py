"""Checkpoints of other libraries: conformance, the goldens of each family, damaged files, writers."""

import json
import os
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from crosscoders import (
    CheckpointError,
    Crosscoder,
    JumpReluGate,
    ScoreThresholdGate,
    Site,
    SiteError,
    TopKGate,
    build_crosscoder,
    get_registry,
)
from crosscoders.authoring import Answers
from crosscoders.checkpoints.foreign import check_export, export
from crosscoders.testing import CheckpointFormatSuite
from goldens import BAD, REFUSED, answered, arrays, cases, load, others, outcome

DATA = Path(__file__).parent.parent / "data" / "goldens"
FORMAT_OF = {
    "ck": "ckkissane",
    "sf": "crosscoder_learning",
    "jk": "crosscoder_learning",
    "sm": "dictionary_learning",
    "saelens": "saelens",
    "sp": "sparsify",
    "ct": "clt_training",
    "cr_clt": "circuit_tracer_clt",
    "cr_plt": "circuit_tracer_plt",
    "cg": "crosslayer_coding",
    "go": "crosslayer_transcoder",
    "cf": "clt_forge",
    "xc": "crosscode",
    "om": "openmoss",
    "gs1": "gemma_scope_1",
    "gs2": "gemma_scope_2",
}


def format_of(name):
    """The format of a case PEER/CASE."""
    peer = name.partition("/")[0]
    return FORMAT_OF.get(peer) or FORMAT_OF[peer.partition("_")[0]]


def random_crosscoder(architecture, sites, gate=None, scale=2.0, **options):
    """A crosscoder with random weights and scales."""
    crosscoder = build_crosscoder(architecture, sites, **options)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in crosscoder.parameters():
            parameter.normal_(generator=generator)
    crosscoder.normaliser.set_scales({site.name: scale for site in sites})
    if gate is not None:
        crosscoder.gate = gate
    return crosscoder


class _Goldens(CheckpointFormatSuite):
    """The suite over the cases of a format that are in the repository."""

    def answers(self, folder):
        return Answers(normalisation="none", others=others(folder.parent))

    def expected(self, folder):
        x, f, x_hat = arrays(folder.parent)
        made = self._read(folder, get_registry())
        reads = dict(zip(made.wiring.read.names, x.unbind(1)))
        return reads, f.flatten(1), dict(zip(made.written.names, x_hat.unbind(1)))


def suite(format_name, writable=None):
    """The suite of a format with its cases."""
    names = [name for name in cases(DATA) if format_of(name) == format_name and "bf16" not in name]
    held = [DATA / name / "files" for name in names if name not in REFUSED]
    body = {
        "format_name": format_name,
        "goldens": held,
        "refused": {DATA / name / "files": REFUSED[name] for name in names if name in REFUSED},
    }
    if writable:
        body["crosscoder"] = pytest.fixture(lambda self: writable())
    return type("Test" + format_name.title().replace("_", ""), (_Goldens,), body)


PAIR = (Site("base/layers.3", 6), Site("chat/layers.3", 6))
CLT = tuple(Site(f"m/layers.{n}.{point}", 6) for point in ("mlp_input", "mlp") for n in range(3))


def per_layer():
    groups = [
        {"name": f"layer{n}", "num_latents": 5, "reads": [CLT[n].name], "writes": [CLT[n + 3].name]} for n in range(3)
    ]
    return random_crosscoder("explicit", CLT, groups=groups, skip=[[CLT[n].name, CLT[n + 3].name] for n in range(3)])


TestCkkissane = suite("ckkissane", lambda: random_crosscoder("acausal", PAIR, num_latents=12))
TestCrosscoderLearning = suite(
    "crosscoder_learning", lambda: random_crosscoder("acausal", PAIR, ScoreThresholdGate(3.0), num_latents=12)
)
TestDictionaryLearning = suite("dictionary_learning")
TestSaelens = suite("saelens", lambda: random_crosscoder("sae", PAIR[:1], ScoreThresholdGate(3.0), num_latents=12))
TestSparsify = suite("sparsify")
TestCltTraining = suite("clt_training")
TestCircuitTracerClt = suite(
    "circuit_tracer_clt",
    lambda: random_crosscoder("strictly_causal", CLT, ScoreThresholdGate(4.0), num_latents=15, tying="per_source"),
)
TestCircuitTracerPlt = suite("circuit_tracer_plt", per_layer)
TestCrosslayerCoding = suite("crosslayer_coding")
TestCrosslayerTranscoder = suite("crosslayer_transcoder")
TestCltForge = suite("clt_forge")
TestCrosscode = suite("crosscode")
TestOpenmoss = suite("openmoss")
TestGemmaScope1 = suite("gemma_scope_1")
TestGemmaScope2 = suite("gemma_scope_2")


def test_every_format_has_its_suite():
    named = {made.format_name for made in globals().values() if isinstance(made, type) and made.__name__[:4] == "Test"}
    offers = get_registry().checkpoint_formats.offers
    assert {offer.spec.name for offer in offers if offer.provider.distribution == "crosscoders"} <= named


def check_case(root, name):
    found = outcome(root / name)
    if name in REFUSED:
        assert found.kind == "refused"
        assert REFUSED[name] in found.text
    else:
        assert found.kind == "exact", found


@pytest.mark.parametrize("name", [name for name in cases(DATA) if "bf16" in name])
def test_half_precision_cases(name):
    check_case(DATA, name)


def test_all_goldens_of_the_environment():
    root = os.environ.get("CROSSCODERS_GOLDENS")
    if not root:
        pytest.skip("CROSSCODERS_GOLDENS names no folder of golden cases")
    for name in cases(root):
        check_case(Path(root), name)


# -- damaged and odd files


def test_bad_files_are_all_known():
    odd = {"bf16", "compiled_prefix", "scale_missing", "square_transposed"}
    assert {path.name for path in (DATA / "bad").iterdir()} == {*BAD, *odd}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_with_the_fault(name):
    with pytest.raises(CheckpointError, match=BAD[name]):
        Crosscoder.from_pretrained(DATA / "bad" / name, sites=["a/0", "b/0"])


def test_a_prefix_of_torch_compile_is_taken_off_and_recorded():
    made = Crosscoder.from_pretrained(DATA / "bad" / "compiled_prefix", sites=["a/0", "b/0"])
    assert any("_orig_mod." in change for change in made.info.origin["changes"])


def test_a_transposed_square_encoder_is_warned_of():
    with pytest.warns(UserWarning, match="may be transposed"):
        Crosscoder.from_pretrained(DATA / "bad" / "square_transposed", sites=["a/0", "b/0"])


def test_half_precision_is_read_to_fp32_and_recorded():
    made = Crosscoder.from_pretrained(DATA / "bad" / "bf16", sites=["a/0", "b/0"])
    assert made.W_enc[0].dtype == torch.float32
    assert made.info.origin["dtype"] == "bfloat16"


def test_a_scale_that_is_in_no_file_is_asked_for():
    made = Crosscoder.from_pretrained(DATA / "bad" / "scale_missing")
    with pytest.raises(SiteError, match="unknown"):
        made.encode(torch.randn(3, 8))
    made = Crosscoder.from_pretrained(DATA / "bad" / "scale_missing", normalisation={"0": 0.5})
    assert made.normaliser.scale_S.tolist() == [0.5]


def test_sites_are_asked_for_by_slot():
    folder = DATA / "sf" / "relu_norm_crosscoder_hub" / "files"
    with pytest.raises(CheckpointError, match=r'sites=\{"0": "base/layers.13", "1": "chat/layers.13"\}'):
        Crosscoder.from_pretrained(folder)
    with pytest.raises(CheckpointError, match="slots 0, 1"):
        Crosscoder.from_pretrained(folder, sites={"2": "a/b"})
    with pytest.raises(CheckpointError, match="MODEL/POINT"):
        Crosscoder.from_pretrained(folder, sites=["a", "b"])
    assert Crosscoder.from_pretrained(folder, sites=["a/0", "b/0"]).layout.names == ("a/0", "b/0")


def test_what_mixed_normalisation_does_not_say_is_asked(tmp_path):
    with pytest.raises(CheckpointError, match=r"answers=\{'alpha_sae': 1.0, 'alpha_cc': 0.1\}"):
        Crosscoder.from_pretrained(DATA / "sf" / "btk_norm_mixed_pt" / "files", sites=["a/0", "b/0"])


def test_tensors_one_level_down_are_found(tmp_path):
    state = torch.load(DATA / "ck" / "fp32_local" / "files" / "0.pt", weights_only=True)
    torch.save({"model": state, "step": 7}, tmp_path / "0.pt")
    made = Crosscoder.from_pretrained(tmp_path, sites=["a/0", "b/0"], answers={"gate": "relu"})
    assert any("lay under 'model'" in change for change in made.info.origin["changes"])


def test_a_prefix_on_some_names_only_is_an_error(tmp_path):
    state = torch.load(DATA / "ck" / "fp32_local" / "files" / "0.pt", weights_only=True)
    state["_orig_mod.W_enc"] = state.pop("W_enc")
    torch.save(state, tmp_path / "0.pt")
    with pytest.raises(CheckpointError, match="1 of 4 tensors"):
        Crosscoder.from_pretrained(tmp_path)


def test_several_checkpoints_in_a_folder_are_told_apart_by_name(tmp_path):
    files = DATA / "ck" / "fp32_local" / "files"
    for n in range(2):
        (tmp_path / f"{n}.pt").write_bytes((files / "0.pt").read_bytes())
        (tmp_path / f"{n}_cfg.json").write_bytes((files / "0_cfg.json").read_bytes())
    with pytest.raises(CheckpointError, match="name the file"):
        Crosscoder.from_pretrained(tmp_path)
    assert Crosscoder.from_pretrained(tmp_path / "1.pt").num_latents == 24
    assert Crosscoder.from_pretrained(tmp_path, subfolder="1.pt").num_latents == 24


def test_a_threshold_below_zero_was_never_estimated():
    folder = DATA / "sf" / "btk_norm_threshold_unset_hub" / "files"
    with pytest.warns(UserWarning, match="never estimated"):
        made = Crosscoder.from_pretrained(folder, sites=["a/0", "b/0"])
    assert made.gate.name == "relu"


def test_openmoss_norms_that_were_never_set_are_unknown(tmp_path):
    files = DATA / "om" / "sae_relu_raw_sae" / "files"
    tensors = load_file(files / "sae_weights.safetensors")
    tensors["dataset_average_activation_norm.blocks.3.hook_resid_post"] = torch.tensor(1e-30)
    save_file(tensors, tmp_path / "sae_weights.safetensors")
    (tmp_path / "config.json").write_bytes((files / "config.json").read_bytes())
    assert Crosscoder.from_pretrained(tmp_path).normaliser.unknown == ("model/layers.3",)


@pytest.mark.parametrize("case", ["clt", "clt_divide", "clt_source_tied", "plt_skip"])
def test_clt_training_without_post_encoder_offsets(case, tmp_path):
    """Where the offsets are zero the latents' rows say all: against the library's equation, which its goldens fit."""
    layers = []
    for n in range(3):
        files, folder = DATA / "ct" / case / "files" / f"layers.{n}.mlp", tmp_path / f"layers.{n}.mlp"
        tensors = load_file(files / "sae.safetensors")
        layers.append({name: torch.zeros_like(t) if "post_enc" in name else t for name, t in tensors.items()})
        folder.mkdir()
        save_file(layers[-1], folder / "sae.safetensors")
        (folder / "cfg.json").write_bytes((files / "cfg.json").read_bytes())
    made = Crosscoder.from_pretrained(tmp_path)
    x_BLD = torch.randn(20, 3, 8)
    x_hat = torch.zeros(20, 3, 8)
    for s, layer in enumerate(layers):
        pre = (x_BLD[:, s] @ layer["encoder.weight"].T + layer["encoder.bias"]).relu()
        f = pre * (pre >= pre.topk(6).values[:, -1:])
        if case == "plt_skip":
            x_hat[:, s] = f @ layer["W_dec"] + layer["b_dec"] + x_BLD[:, s] @ layer["W_skip"].T
            continue
        for t in range(s, 3):
            W = layer.get(f"W_decs.{t - s}", layer["W_dec"])
            share = 1 / t if case == "clt_divide" and t > s else 1.0
            x_hat[:, t] += share * (f @ W + layer[f"b_decs.{t - s}"])
    ours = made({name: x_BLD[:, n] for n, name in enumerate(made.wiring.read.names)})
    torch.testing.assert_close(torch.stack(list(made.split(ours).values()), 1), x_hat, rtol=1e-4, atol=1e-5)
    assert bool(made.wiring.ties) == (case == "clt_source_tied")


def test_crosslayer_coding_statistics_are_folded(tmp_path):
    """A model that works on normalised activations, with its `norm_stats.json` beside it, takes raw ones here."""
    files = DATA / "cg" / "jumprelu_per_target_connection" / "files"
    plain = load(files.parent)
    (tmp_path / "clt.safetensors").write_bytes((files / "clt.safetensors").read_bytes())
    config = json.loads((files / "cfg.json").read_text()) | {"normalization_method": "mean_std"}
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    unknown = Crosscoder.from_pretrained(tmp_path, **answered(files.parent))
    assert len(unknown.normaliser.unknown) == 6
    generator = torch.Generator().manual_seed(3)
    stats = {
        str(n): {
            name: {
                "mean": torch.randn(8, generator=generator).tolist(),
                "std": (0.5 + torch.rand(8, generator=generator)).tolist(),
            }
            for name in ("inputs", "outputs")
        }
        for n in range(3)
    }
    (tmp_path / "norm_stats.json").write_text(json.dumps(stats))
    raw = Crosscoder.from_pretrained(tmp_path, **answered(files.parent))
    x = {name: torch.randn(10, 8, generator=generator) for name in raw.wiring.read.names}

    def of(n, name, key):
        return torch.tensor(stats[str(n)][name][key])

    normalised = {name: (x[name] - of(n, "inputs", "mean")) / of(n, "inputs", "std") for n, name in enumerate(x)}
    expected = plain.split(plain(normalised))
    for n, (name, value) in enumerate(raw.split(raw(x)).items()):
        torch.testing.assert_close(
            value, expected[name] * of(n, "outputs", "std") + of(n, "outputs", "mean"), rtol=1e-4, atol=1e-4
        )


def test_clt_forge_in_several_files(tmp_path):
    files = DATA / "cf" / "cross_fp32" / "files"
    tensors = load_file(files / "clt_weights.safetensors")
    axes = {"W_enc": 2, "b_enc": 1, "W_dec": 1, "log_threshold": 1, "feature_count": 1}
    for rank in range(2):
        part = {k: t.chunk(2, axes[k])[rank].contiguous() if k in axes else t for k, t in tensors.items()}
        save_file(part, tmp_path / f"rank{rank}_clt_weights.safetensors")
    (tmp_path / "clt_cfg.json").write_bytes((files / "clt_cfg.json").read_bytes())
    whole, parts = load(files.parent), Crosscoder.from_pretrained(tmp_path, **answered(files.parent))
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), parts.state_dict().values()))


def test_gemma_scope_crosscoder_says_what_was_assumed(tmp_path):
    folder = tmp_path / "crosscoder" / "layer_7_13_17_22_width_1k_l0_medium"
    folder.mkdir(parents=True)
    for n in range(4):
        w_dec = torch.randn(10, 4, 6)
        w_dec[:, :n] = 0
        tensors = {"w_enc": torch.randn(6, 10), "w_dec": w_dec, "b_enc": torch.zeros(10), "b_dec": torch.zeros(6)}
        save_file({**tensors, "threshold": torch.full((10,), 0.5)}, folder / f"params_layer_{n}.safetensors")
    made = Crosscoder.from_pretrained(tmp_path)
    assert made.layout.names == ("model/layers.7", "model/layers.13", "model/layers.17", "model/layers.22")
    assert [group.writes for group in made.wiring.groups] == [made.layout.names[n:] for n in range(4)]
    assert any("check the reconstruction error" in text for text in made.info.origin["assumed"])


def test_dictionary_learning_jumprelu_by_hand(tmp_path):
    tensors = {
        "W_enc": torch.randn(6, 10),
        "W_dec": torch.randn(10, 6),
        "b_enc": torch.randn(10),
        "b_dec": torch.randn(6),
    }
    torch.save({**tensors, "threshold": torch.rand(10)}, tmp_path / "ae.pt")
    trainer = {"dict_class": "JumpReluAutoEncoder", "submodule_name": "resid_post_layer_2", "lm_name": "x/y"}
    (tmp_path / "config.json").write_text(json.dumps({"trainer": trainer}))
    made, x_BD = Crosscoder.from_pretrained(tmp_path), torch.randn(9, 6)
    assert made.layout.names == ("model/layers.2",)
    pre = x_BD @ tensors["W_enc"] + tensors["b_enc"]
    f = pre.relu() * (pre > made.gate.threshold_F)
    torch.testing.assert_close(made(x_BD), f @ tensors["W_dec"] + tensors["b_dec"])


# -- writers


TRANSCODER = (Site("m/layers.0.mlp_input", 6), Site("m/layers.0.mlp", 4))


@pytest.mark.parametrize(
    "made",
    [
        lambda: random_crosscoder("sae", PAIR[:1], num_latents=12),
        lambda: random_crosscoder("sae", PAIR[:1], TopKGate(3), num_latents=12),
        lambda: random_crosscoder("sae", PAIR[:1], TopKGate(3, by="activation"), num_latents=12),
        lambda: random_crosscoder("transcoder", TRANSCODER, JumpReluGate(12), num_latents=12, skip=True),
        lambda: random_crosscoder("transcoder", TRANSCODER, num_latents=12),
        lambda: random_crosscoder("acausal", PAIR, ScoreThresholdGate(4.0), num_latents=12),
    ],
    ids=["standard", "topk by score", "topk", "jumprelu skip transcoder", "transcoder", "side by side"],
)
def test_saelens_files_give_our_numbers(made, tmp_path):
    crosscoder = made()
    changed = export(crosscoder, tmp_path / "out", "saelens")
    assert any("folded" in text for text in changed)
    sites = {} if len(crosscoder.wiring.groups[0].reads) == 1 else {"0": "m/both"}
    again = Crosscoder.from_pretrained(tmp_path / "out", sites=sites)
    x_BX = torch.randn(20, crosscoder.layout.width)
    torch.testing.assert_close(again(x_BX), crosscoder(x_BX), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("format_name", "made", "reason"),
    [
        ("saelens", lambda: random_crosscoder("strictly_causal", CLT, num_latents=15), "one group of latents"),
        ("ckkissane", lambda: random_crosscoder("acausal", PAIR, TopKGate(2), num_latents=12), "no thresholds"),
        ("ckkissane", lambda: random_crosscoder("transcoder", TRANSCODER, num_latents=12), "reads and writes all"),
        (
            "crosscoder_learning",
            lambda: random_crosscoder("acausal", PAIR, JumpReluGate(12), num_latents=12),
            "jumprelu",
        ),
        ("circuit_tracer_clt", lambda: random_crosscoder("strictly_causal", CLT, num_latents=15, skip=True), "skip"),
        ("circuit_tracer_clt", lambda: random_crosscoder("acausal", PAIR, num_latents=12), "number i"),
        ("circuit_tracer_plt", lambda: random_crosscoder("strictly_causal", CLT, num_latents=15), "reads one site"),
        ("gemma_scope_2", lambda: random_crosscoder("sae", PAIR[:1], num_latents=12), "only read"),
    ],
)
def test_what_a_format_cannot_hold_is_said_beforehand(format_name, made, reason, tmp_path):
    for attempt in (lambda: check_export(made(), format_name), lambda: export(made(), tmp_path / "out", format_name)):
        with pytest.raises(CheckpointError, match=reason):
            attempt()
    assert not (tmp_path / "out").exists()


def test_thresholds_below_zero_do_not_let_negative_latents_through(tmp_path):
    """Behind a relu they are those of a relu; where a library has none they are refused, and never written."""
    files = DATA / "saelens" / "jumprelu_nosub" / "files"
    tensors = load_file(files / "sae_weights.safetensors")
    tensors["threshold"] = -tensors["threshold"].abs()
    save_file(tensors, tmp_path / "sae_weights.safetensors")
    (tmp_path / "cfg.json").write_bytes((files / "cfg.json").read_bytes())
    made, x_BD = Crosscoder.from_pretrained(tmp_path), torch.randn(20, 8)
    assert torch.equal(made.encode(x_BD).dense() > 0, made.pre_activations(x_BD) > 0)
    export(made, tmp_path / "out", "saelens")
    assert bool((load_file(tmp_path / "out" / "sae_weights.safetensors")["threshold"] == 0).all())
    folder = tmp_path / "plt"
    folder.mkdir()
    for path in (DATA / "cr_plt" / "jump_relu_skip" / "files").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    tensors = load_file(folder / "layer_1.safetensors")
    save_file({**tensors, "activation_function.threshold": torch.full((12,), -1.0)}, folder / "layer_1.safetensors")
    with pytest.raises(CheckpointError, match="layer_1.safetensors has 12 thresholds below 0"):
        load(folder.parent, files=folder)


def test_layers_are_numbered_from_zero_and_that_is_said(tmp_path):
    made = random_crosscoder("transcoder", (Site("m/layers.4.mlp_input", 6), Site("m/layers.4.mlp", 6)), num_latents=8)
    assert any("layer_0.safetensors is of m/layers.4" in text for text in check_export(made, "circuit_tracer_plt"))
    with pytest.raises(CheckpointError, match="both read and written"):
        check_export(random_crosscoder("sae", PAIR[:1], num_latents=8), "circuit_tracer_plt")


def test_unknown_normalisation_is_not_written(tmp_path):
    crosscoder = random_crosscoder("acausal", PAIR, num_latents=12)
    crosscoder.normaliser.set_unknown(["base/layers.3"])
    with pytest.raises(SiteError, match="unknown"):
        export(crosscoder, tmp_path / "out", "ckkissane")


def test_two_formats_that_claim_a_folder_are_both_named(tmp_path):
    (tmp_path / "0.pt").write_bytes((DATA / "ck" / "fp32_local" / "files" / "0.pt").read_bytes())
    files = DATA / "sf" / "relu_norm_crosscoder_hub" / "files"
    (tmp_path / "model.safetensors").write_bytes((files / "model.safetensors").read_bytes())
    (tmp_path / "config.json").write_bytes((files / "config.json").read_bytes())
    with pytest.raises(CheckpointError, match="'ckkissane', 'crosscoder_learning'.*format="):
        Crosscoder.from_pretrained(tmp_path)
    made = Crosscoder.from_pretrained(tmp_path, format="crosscoder_learning", sites=["a/0", "b/0"])
    assert made.info.origin["format"] == "crosscoder_learning"


def test_weights_in_bf16_on_request():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = load(DATA / "sm_pypi" / "BatchTopKSAE", dtype=torch.bfloat16)
    assert {p.dtype for p in made.parameters()} == {torch.bfloat16}
    whole, x_BD = load(DATA / "sm_pypi" / "BatchTopKSAE"), torch.randn(64, 8)
    error = (made(x_BD).float() - whole(x_BD)).abs().mean() / whole(x_BD).abs().mean()
    assert error < 0.05
