"""The recipes and the how-to on one's own tensors run as they stand, at a smaller size."""

import re
from pathlib import Path

import pytest
import torch

from crosscoders import ConfigError, RunConfig, train
from study_of_texts import Texts, adapters

ROOT = Path(__file__).parent.parent


def blocks(page):
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "howto" / page).read_text(), re.DOTALL)


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
        code = re.sub(r'"me/(.*?)"', r'"\1/crosscoder"', block).replace(
            "num_tokens=100_000", "num_tokens=360, tokens=texts"
        )
        assert len([line for line in block.splitlines() if line.strip() and "import" not in line]) <= 2, block
        exec(compile(code, "recipes.md", "exec"), names)
    assert names["direction"].shape == (192,)
    torch.testing.assert_close(names["logits"], names["study"].steer({181: 8.0}).logits("Return the sum of a list"))
    assert len(names["scaling"].to_pandas()) == 192


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
        code = block.replace("50_000", "1_024").replace("4096, 64", "600, 64").replace("20_000", "1_024")
        code = code.replace('"training":', '"activations": {"context_length": 24, "held_out_share": 0.3}, "training":')
        exec(compile(code, "own-tensors.md", "exec"), names)
    assert names["study"].adapter("chat") is names["chat"] and Path("my-crosscoder/config.json").is_file()
