"""The recipes and the how-to on one's own tensors run as they stand, at a smaller size."""

import json
import re
from pathlib import Path

import pytest
import torch

from crosscoders import AnalysisChoice, ConfigError, RunConfig, Text, train
from study_of_texts import Texts, adapters

ROOT = Path(__file__).parent.parent


def blocks(page, language="python"):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / "howto" / page).read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipes")
    (folder / "texts").mkdir()
    for number, text in enumerate(Texts(80).documents()):
        (folder / "texts" / f"{number}.txt").write_text(text.text)
    for seed, name in enumerate(("my-crosscoder", "my-crosscoder-with-another-seed")):
        config = RunConfig.from_dict(
            {
                "models": {key: {"name": "transformers", "model": f"tiny-pair/{key}"} for key in ("base", "chat")},
                "sites": ["base/layers.2", "chat/layers.2"],
                "tokens": {"name": "text_files", "paths": [str(folder / "texts")]},
                "architecture": {"name": "acausal", "num_latents": 192},
                "loss": {"name": "batchtopk", "k": 8},
                "activations": {
                    "context_length": 24,
                    "block_tokens": 512,
                    "calibration_tokens": 256,
                    "held_out_share": 0.3,
                },
                "training": {
                    "num_tokens": 1024,
                    "batch_size": 256,
                    "lr": 3e-3,
                    "seed": seed,
                    "evaluation_tokens": 64,
                    "fidelity_tokens": 0,
                },
                "device": "cpu",
                "output": str(folder / name),
            }
        )
        train(config, models=adapters(), quiet=True)
    return folder


def test_every_recipe_runs_and_is_short(trained, monkeypatch):
    monkeypatch.chdir(trained)
    # Where its texts were does not belong to a saved crosscoder.
    names = {"texts": Texts()}
    for block in blocks("recipes.md"):
        if "merge" in block or "AutoTokenizer" in block:
            continue  # those on LoRA have a test of their own
        code = re.sub(r'"me/(.*?)"', r'"\1/crosscoder"', block).replace(
            "num_tokens=100_000", "num_tokens=360, tokens=texts"
        )
        assert len([line for line in block.splitlines() if line.strip() and "import" not in line]) <= 2, block
        exec(compile(code, "recipes.md", "exec"), names)
    assert names["direction"].shape == (192,)
    torch.testing.assert_close(names["logits"], names["study"].steer({181: 8.0}).logits("Return the sum of a list"))
    assert len(names["scaling"].to_pandas()) == 192


def test_the_how_to_on_dashboards_runs(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    names = {"texts": Texts()}
    for block in blocks("explore.md"):
        code = block.replace('"my-crosscoder"', '"my-crosscoder/crosscoder"')
        code = code.replace("num_tokens=100_000", "num_tokens=360, tokens=texts")
        exec(compile(code, "explore.md", "exec"), names)
    assert capsys.readouterr().out.strip().endswith("index.html") and Path("dashboard/data/latents-0000.js").is_file()


def test_a_model_that_reads_no_text_is_trained_on_and_studied(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(blocks("other-models.md")[0].replace("60_000", "15_000"), "other-models.md", "exec"), names)
    metrics = names["study"].evaluate()
    assert min(metrics.explained_variance.values()) > 0.5 and metrics.spliced == {}
    assert "latent 3" in capsys.readouterr().out
    page = (ROOT / "docs" / "howto" / "other-models.md").read_text()
    with pytest.raises(ConfigError) as caught:
        names["study"].steer({3: 4.0}).generate([5])
    assert str(caught.value) in " ".join(page.split())
    with pytest.raises(
        ConfigError, match=r"the loss of the model 'vit' needs a model that gives logits .* lacks logits"
    ):
        names["study"].ablate([3])
    with pytest.raises(ConfigError, match=r"a document of the kind Text needs a model that reads text"):
        names["study"].latents("a text")
    assert len(names["study"].latents([32, 33, 34]).to_pandas()) > 0


def test_the_how_to_on_own_tensors_runs(trained, monkeypatch):
    monkeypatch.chdir(trained)
    chat = adapters()["chat"]
    names = {"model": chat.model, "tokenizer": chat.tokenizer}
    for block in blocks("own-tensors.md"):
        code = block.replace("50_000", "1_024").replace("4096, 64", "600, 64")
        code = code.replace("20_000, ", '1_024, "evaluation_tokens": 256, "fidelity_tokens": 64, ')
        code = code.replace('"training":', '"activations": {"context_length": 24, "held_out_share": 0.3}, "training":')
        exec(compile(code, "own-tensors.md", "exec"), names)
    assert names["study"].adapter("chat") is names["chat"] and Path("my-crosscoder/config.json").is_file()


def test_the_recipes_on_data_read_it(tmp_path, monkeypatch):
    import tomllib

    import pyarrow
    from pyarrow import parquet

    from crosscoders import Chat, TokenSourceChoice
    from crosscoders.plugins.choices import structure

    monkeypatch.chdir(tmp_path)
    for name in ("my-text", "chats", "texts"):
        (tmp_path / name).mkdir()
    (tmp_path / "my-text" / "a.txt").write_text("Some text. " * 60)
    turns = [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "A parrot."}]
    (tmp_path / "chats.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    parquet.write_table(pyarrow.table({"messages": [turns, turns]}), "chats/0.parquet")
    parquet.write_table(pyarrow.table({"content": ["One text.", "Another."]}), "texts/0.parquet")
    found = {}
    for block in blocks("recipes.md", "toml"):
        if "[tokens]" in block:
            choice = structure(tomllib.loads(block)["tokens"], TokenSourceChoice)
            documents = choice.build().documents()
            found[block] = [document for document, _ in zip(documents, range(8))]
    kinds = [{type(document) for document in documents} for documents in found.values()]
    assert kinds == [{Text}, {Chat}, {Chat}, {Text}, {Text, Chat}]
    assert [m.content for m in list(found.values())[2][1].messages] == ["Who are you?", "A parrot."]


def test_the_recipes_on_lora_merge_it(tmp_path, monkeypatch):
    import tomllib

    from crosscoders import ModelChoice
    from crosscoders.plugins.choices import structure

    peft = pytest.importorskip("peft")
    monkeypatch.chdir(tmp_path)
    base = ModelChoice.of("transformers", model="tiny-pair/base").build()
    base.model.save_pretrained("base")
    base.tokenizer.save_pretrained("base")
    lora = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    base = ModelChoice.of("transformers", model="base").build()  # an adapter says where its base was
    peft.get_peft_model(base.model, lora).save_pretrained("lora")

    def here(text):
        return text.replace("org/base-model", "base").replace("me/my-lora", "lora")

    (block,) = [block for block in blocks("recipes.md", "toml") if "[models.tuned]" in block]
    adapter = structure(tomllib.loads(here(block))["models"]["tuned"], ModelChoice).build()
    names = {}
    for code in [block for block in blocks("recipes.md") if "merge" in block or "AutoTokenizer" in block]:
        exec(compile(here(code), "recipes.md", "exec"), names)
    merged = ModelChoice.of("transformers", model="merged").build()
    ids = torch.tensor([adapter.tokenize(Text("Return the sum")).ids])
    torch.testing.assert_close(merged.model(ids).logits, adapter.model(ids).logits, rtol=1e-3, atol=1e-3)


def test_a_lora_is_made_and_its_pair_written(tmp_path, monkeypatch):
    """The page on diffing a LoRA: its first block, with fewer steps and rows, and the config that it shows."""
    import tomllib

    from click.testing import CliRunner

    from crosscoders.cli import main

    pytest.importorskip("peft")
    monkeypatch.chdir(tmp_path)
    make, look = blocks("diff-a-lora.md")
    small = make.replace("8000", "60").replace("steps = 150", "steps = 2").replace("(16,)", "(2,)")
    assert small.count("60)") == 1 and "steps = 2\n" in small
    exec(compile(small, "diff-a-lora.md", "exec"), names := {})
    page = (ROOT / "docs" / "howto" / "diff-a-lora.md").read_text()
    adapted = sum(p.numel() for n, p in names["model"].named_parameters() if "lora_" in n)
    whole = sum(p.numel() for n, p in names["model"].named_parameters() if "lora_" not in n)
    assert f"{adapted:,} parameters beside the base's {whole:,}" in page
    (command,) = re.findall(r"crosscoders (init .*?)\ncrosscoders train", page, re.DOTALL)
    done = CliRunner().invoke(main, command.replace("\\\n", " ").split())
    assert done.exit_code == 0, done.output
    shown = tomllib.loads(blocks("diff-a-lora.md", "toml")[0])["models"]
    config = RunConfig.from_toml("diff.toml", settings={"training.batch_size": 1024, "training.lr": 2e-3})
    assert {key: (choice.options.model, choice.options.lora) for key, choice in config.models.items()} == {
        key: (table["model"], table.get("lora", "")) for key, table in shown.items()
    }
    assert 'analyse(crosscoder, ["latent_scaling"], study=study)' in look
    (amplified,) = re.findall(r"--analysis '(\{.*?\})'", page, re.DOTALL)
    options = json.loads(amplified)
    assert AnalysisChoice.of(options.pop("name"), **options).options.form == "weights"
