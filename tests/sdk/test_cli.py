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
    assert "decoder_norms:" in out and "latent_scaling:" in out, "bars"
    quiet = run(
        "analyse", saved, "--tokens", 2048, "--output", tmp_path / "x", "--analysis", "decoder_norms", "--quiet"
    )
    assert "decoder_norms:" not in quiet
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


def test_components_lists_kinds_components_and_options():
    out = run("components")
    assert "loss-term:\n  auxk" in out and "relu" in out and "kissane-gemma" not in out
    out = run("components", "loss")
    assert "batchtopk  " in out and "acausal" not in out
    out = " ".join(run("components", "loss", "batchtopk").split())
    assert "k integer ≥ 1, default 100 Number of active latents per token." in out
    assert "terms [a loss term, …], default []; see `crosscoders components loss-term`" in out
    out = run("components", "analysis", "amplification")
    assert "sampling.temperature   number ≥ 0, default 1.0" in out and "{name = text, …}" in out
    out = run("components", "run")
    assert "training.lr   number > 0, default 0.0001" in out and "sites   [text, …], required" in out
    assert "It has no options." in run("components", "gate", "relu")
    assert "did you mean 'loss'?" in run("components", "los", fails=True)
    assert "did you mean 'auxk'?" in run("components", "loss-term", "auks", fails=True)
    (levels, *_) = [o for o in json.loads(run("components", "architecture", "matryoshka", "--json")) if o["default"]]
    assert levels["name"] == "levels" and levels["default"] == [0.0625, 0.25, 1.0]
    assert {c["kind"] for c in json.loads(run("components", "analysis", "--json"))} == {"analysis"}


def test_init_writes_a_config_that_trains_as_it_is(tmp_path, monkeypatch):
    import tomllib

    from crosscoders import RunConfig

    monkeypatch.chdir(tmp_path)
    small = ("--latents", 64, "--k", 4, "--num-tokens", 2048, "--output", "run")
    assert "wrote diff.toml; now: crosscoders train diff.toml" in run("init", "diff.toml", *small)
    text = (tmp_path / "diff.toml").read_text()
    assert max(map(len, text.splitlines())) <= 122
    assert "# batch_size = 2048                       # Number of tokens in a global batch" in text
    config = RunConfig.from_toml(tmp_path / "diff.toml")
    assert config.sites == ("base/layers.2", "tuned/layers.2") and config.loss.options.k == 4
    quick = [("activations.calibration_tokens", 1024), ("activations.block_tokens", 2048)]
    quick += [("training.fidelity_tokens", 0), ("training.evaluation_tokens", 512)]
    settings = [word for key, value in quick for word in ("--set", f"{key}={value}")]
    assert "saved: run/crosscoder" in run("train", "diff.toml", "--quiet", *settings)
    assert "exists already" in run("init", "diff.toml", fails=True)
    # Taking the # away from every default gives the same config: all of them are TOML and what they say they are.
    lines = [line for line in text.splitlines() if not line.startswith("# ") or " = " in line.partition("  # ")[0]]
    spelled = [line.removeprefix("# ") for line in lines if "<" not in line and not line.startswith("# Lines")]
    again = tomllib.loads("\n".join(line for line in spelled if not line.startswith("A training run")))
    assert len(again["training"]) > 15 and RunConfig.from_dict(again) == config


def test_init_of_other_models_and_texts(hub, tmp_path, monkeypatch):
    from huggingface_hub import HfApi

    from crosscoders import RunConfig

    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text('{"text_config": {"num_hidden_layers": 26}}')
    HfApi(token="hf_alice").create_repo("alice/model")
    config = b'{"n_layer": 9}'
    HfApi(token="hf_alice").upload_file(path_or_fileobj=config, path_in_repo="config.json", repo_id="alice/model")
    (tmp_path / "talk.jsonl").touch()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "rows.parquet").touch()

    def written(*arguments):
        run("init", "x.toml", "--force", *arguments)
        return RunConfig.from_toml(tmp_path / "x.toml")

    one = written("--base", "base", "--tokens", "talk.jsonl")
    assert one.sites == ("base/layers.13", "tuned/layers.13") and one.models["base"].options.model == "base"
    assert one.tokens.name == "chat_files" and one.tokens.options.paths[0].name == "talk.jsonl"
    two = written("--base", "alice/model", "--tokens", "texts")
    assert two.sites[0] == "base/layers.4"
    assert (two.tokens.options.path, two.tokens.options.data_files) == ("parquet", ("texts/**/*.parquet",))
    assert written("--layer", 1, "--tokens", "owner/dataset").tokens.options.path == "owner/dataset"
    lora = written("--base", "base", "--lora", "me/lora").models
    assert {key: (choice.options.model, choice.options.lora) for key, choice in lora.items()} == {
        "base": ("base", ""),
        "tuned": ("base", "me/lora"),
    }
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").write_text("{}")
    (tmp_path / "base" / "config.json").write_text("{}")
    for arguments, said in (
        (("--base", "base"), "name a layer with --layer"),
        (("--base", "alice/none"), "name a layer with --layer"),
        (("--base", "./none"), "there is no folder ./none"),
        (("--tuned", "lora"), "lora is an adapter, not a whole model: name it by --lora"),
        (("--tuned", "x/y", "--lora", "lora"), "give one of them"),
        (("--tokens", "none.txt"), "there is no file or folder none.txt"),
        (("--tokens", "base"), "has no .txt, .jsonl or .parquet files"),
    ):
        assert said in run("init", "x.toml", "--force", *arguments, fails=True)


def test_names_complete_in_a_shell():
    from click.shell_completion import ShellComplete

    def completions(*words):
        found = ShellComplete(main, {}, "crosscoders", "_X").get_completions(list(words[:-1]), words[-1])
        return [item.value for item in found]

    assert completions("comp") == ["components"]
    assert completions("components", "loss") == ["loss", "loss-term"]
    assert completions("components", "loss", "batch") == ["batchtopk"]
    assert completions("components", "nothing", "batch") == []


def test_errors_are_one_line(tmp_path):
    out = run("info", tmp_path, fails=True)
    assert out.startswith("Error: ") and "no config.json" in out
    (tmp_path / "bad.toml").write_text("[loss]\nname = 'nope'\n")
    assert "nope" in run("train", tmp_path / "bad.toml", fails=True)


@pytest.mark.slow
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
        2048,
        "--study-tokens",
        1024,
        "--prompts",
        2,
        "--output",
        tmp_path / "demo",
    )
    assert "base/layers.1, chat/layers.1" in out and "explained variance base/layers.1" in out
    assert (tmp_path / "demo" / "report.html").is_file()
    assert (tmp_path / "demo" / "crosscoder" / "model.safetensors").is_file()


def test_harvest_train_from_cache_and_sweep(tmp_path):
    config = tmp_path / "run.toml"
    config.write_text(toml_of(synthetic_run("unused", training={"num_tokens": 2048})))
    out = run("harvest", config, tmp_path / "cache")
    assert "loading the models base, chat" in out and "harvesting:" in out and "harvested" in out
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
    assert "300000" in said and "tiny-" in said
