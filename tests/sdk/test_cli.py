"""The commands, as a user runs them."""

import json

import pytest
from click.testing import CliRunner

from crosscoders.cli import main
from crosscoders.testing import synthetic_run


def run(*arguments, fails=False):
    found = CliRunner().invoke(main, [str(a) for a in arguments])
    assert (found.exit_code != 0) == fails, found.output
    return found.output


pytestmark = pytest.mark.usefixtures("restored_environment")


def toml_of(data, prefix=""):
    """Just enough TOML for our configs."""
    lines, tables = [], []
    for key, value in data.items():
        if isinstance(value, dict):
            tables.append(f"[{prefix}{key}]\n" + toml_of(value, f"{prefix}{key}."))
        else:
            lines.append(f"{key} = {json.dumps(value)}")
    return "\n".join(lines + tables) + "\n"


def test_train_info_analyse(tmp_path):
    (tmp_path / "run.toml").write_text(toml_of(synthetic_run("unused")))
    out = run("train", tmp_path / "run.toml", "--output", tmp_path / "run", "--quiet")
    assert "explained variance  base/x" in out and "L0 " in out
    saved = tmp_path / "run" / "crosscoder"
    out = run("info", saved)
    assert "32 latents, architecture acausal, gate score_threshold" in out and "site chat/x, width 16" in out
    assert json.loads(run("info", saved, "--json"))["format"] == 1
    out = run(
        "analyse",
        saved,
        "--tokens",
        2048,
        "--output",
        tmp_path / "analysis",
        "--analysis",
        "decoder_norms",
        "--analysis",
        '{"name": "latent_scaling", "blocks": 16}',
    )
    assert "Decoder norms: Latents by class" in out
    assert {r["title"] for r in json.loads((tmp_path / "analysis" / "report.json").read_text())} == {
        "Decoder norms",
        "Latent scaling",
    }


def test_push_pull(hub, planted_run, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    assert "/commit/" in run("push", planted_run / "crosscoder", "alice/cli", "--tag", "v1")
    run("pull", "alice/cli", tmp_path / "pulled", "--revision", "v1")
    assert (tmp_path / "pulled" / "model.safetensors").read_bytes() == (
        planted_run / "crosscoder" / "model.safetensors"
    ).read_bytes()
    assert "exists already" in run("pull", "alice/cli", tmp_path / "pulled", fails=True)
    assert "32 latents" in run("info", "alice/cli")


def test_plugins_lists_all():
    out = run("plugins")
    assert "batchtopk" in out and "crosscoders-plugins  (crosscoders " in out
    assert {p["plugin"] for p in json.loads(run("plugins", "--json"))["plugins"]} == {
        "crosscoders-adapters",
        "crosscoders-plugins",
    }


def test_errors_are_one_line(tmp_path):
    out = run("info", tmp_path, fails=True)
    assert out.startswith("Error: ") and "no config.json" in out
    (tmp_path / "bad.toml").write_text("[loss]\nname = 'nope'\n")
    assert "nope" in run("train", tmp_path / "bad.toml", fails=True)


def test_demo_on_two_local_models(tmp_path):
    """`--base --chat --layer`, here with small models of another family."""
    import torch
    import transformers

    from crosscoders import ModelChoice

    tokenizer = ModelChoice.of("transformers", model="tiny-pair/base").build().tokenizer
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        config = transformers.GPT2Config(
            vocab_size=4096, n_embd=16, n_layer=3, n_head=2, bos_token_id=1, eos_token_id=2
        )
        transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    out = run(
        "demo",
        "--base",
        tmp_path / "one",
        "--chat",
        tmp_path / "two",
        "--layer",
        1,
        "--latents",
        64,
        "--k",
        4,
        "--tokens",
        4096,
        "--study-tokens",
        2048,
        "--prompts",
        4,
        "--output",
        tmp_path / "demo",
    )
    assert "base/layers.1, chat/layers.1" in out and "explained variance base/layers.1" in out
    assert (tmp_path / "demo" / "report.html").is_file()
    assert (tmp_path / "demo" / "crosscoder" / "model.safetensors").is_file()


def test_harvest_train_from_cache_and_sweep(tmp_path):
    config = tmp_path / "run.toml"
    config.write_text(toml_of(synthetic_run("unused", training={"num_tokens": 2048})))
    assert "harvested" in run("harvest", config, tmp_path / "cache", "--quiet")
    assert "shards, all checksums match" in run("harvest", config, tmp_path / "cache", "--verify")
    cache = ("--cache", tmp_path / "cache", "--quiet")
    assert "explained variance" in run("train", config, "--output", tmp_path / "run", *cache)
    out = run(
        "sweep", config, "--set", "loss.k=1,2", "--set", "training.seed=3", "--output", tmp_path / "sweep", *cache
    )
    assert out.count("saved: ") == 2 and (tmp_path / "sweep" / "k=2,seed=3" / "crosscoder" / "config.json").exists()
    assert "KEY=VALUE" in run("sweep", config, "--set", "loss.k", fails=True)


@pytest.mark.usefixtures("restored_environment")
def test_analyses_that_fail_leave_those_of_others(planted_run, tmp_path, monkeypatch):
    from crosscoders import AnalysisError, Crosscoder, analyse
    from crosscoders_plugins.analyses.latent_scaling import LatentScaling

    monkeypatch.setattr(LatentScaling, "run", lambda self, study: {}["no such thing"])
    said = "the analysis 'latent_scaling' of the plugin 'crosscoders-plugins' failed: KeyError: 'no such thing'"
    with pytest.raises(AnalysisError, match=said) as caught:
        analyse(Crosscoder.from_pretrained(planted_run / "crosscoder"), num_tokens=1024)
    assert [report.title for report in caught.value.reports] == ["Decoder norms"]
    out = run("analyse", planted_run / "crosscoder", "--tokens", 1024, "--output", tmp_path / "out", fails=True)
    assert said in out and "report: " in out
    assert [r["title"] for r in json.loads((tmp_path / "out" / "report.json").read_text())] == ["Decoder norms"]
    assert "KEY=VALUE" in run("train", tmp_path / "run.toml", "--set", "training.lr", fails=True)


def test_the_demo_shows_its_defaults_without_torch():
    import subprocess
    import sys

    code = "import sys; sys.argv = ['x', 'demo', '--help']\nfrom crosscoders.cli import main\ntry: main()\nfinally: "
    code += "assert 'torch' not in sys.modules"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "450000" in said and "tiny-" in said
