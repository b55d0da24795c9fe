"""Models and activations of one's own: in memory, wrapped, as tensors."""

import json
import math

import pytest
import torch
import transformers

from crosscoders import (
    AnalysisError,
    Crosscoder,
    LossChoice,
    RunConfig,
    Site,
    SiteError,
    Study,
    Text,
    TokenBatch,
    TrainingConfig,
    build_crosscoder,
    evaluate,
    fit,
    train,
)
from crosscoders.testing import synthetic_run
from crosscoders_adapters.transformers import TransformersAdapter
from study_of_texts import Texts, adapters


def run_on_texts(folder, **changes):
    data = synthetic_run(
        str(folder),
        tokens={"name": "python_library"},
        sites=["mine/layers.1"],
        training={"num_tokens": 1024, "evaluation_tokens": 64, "fidelity_tokens": 64, **changes},
        activations={"block_tokens": 512, "calibration_tokens": 256},
    )
    data["models"] = {}
    data["tokens"] = {"name": "text_files", "paths": [str(folder / "texts")]}
    (folder / "texts").mkdir(parents=True)
    for number, text in enumerate(Texts(60).documents()):
        (folder / "texts" / f"{number}.txt").write_text(text.text)
    return RunConfig.from_dict(data)


def test_a_model_in_memory_trains_and_is_studied_again(tmp_path):
    config = run_on_texts(tmp_path)
    mine = {"mine": adapters()["chat"]}
    crosscoder = train(config, models=mine, quiet=True)
    spliced = crosscoder.info.metrics["spliced"]["mine/layers.1"]
    assert spliced["ce_zero"] > spliced["ce_clean"] and math.isfinite(spliced["1-kl_spliced/kl_mean"])
    saved = Crosscoder.from_pretrained(tmp_path / "crosscoder")
    assert saved.info.models["mine"]["config"] is None
    with pytest.raises(AnalysisError, match="records no mine; pass models="):
        Study.of(saved)
    study = Study.of(saved, models=mine, tokens=Texts(), num_tokens=64)
    assert study.adapter("mine") is mine["mine"] and len(study.latents("Return the sum").texts) == 1
    assert study.density().rows and Study.of(crosscoder, models=mine, num_tokens=64).density().rows
    card = (tmp_path / "crosscoder" / "README.md").read_text()
    assert "CE recovered, mean" in card and f"| `mine/layers.1` | {spliced['ce_clean']:.4g} |" in card
    json.dumps(json.loads((tmp_path / "crosscoder" / "config.json").read_text()), allow_nan=False)


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(SiteError, match=r"site 'mine/layers\.1' should be MODEL/POINT, where MODEL is one of other"):
        train(run_on_texts(tmp_path), models={"other": adapters()["chat"]}, quiet=True)


def test_info_shows_what_is_recovered(tmp_path):
    from click.testing import CliRunner

    from crosscoders.cli import main

    train(run_on_texts(tmp_path), models={"mine": adapters()["chat"]}, quiet=True)
    shown = CliRunner().invoke(main, ["info", str(tmp_path / "crosscoder")])
    assert shown.exit_code == 0 and "KL recovered" in shown.output


def test_fit_on_tensors_ends_in_a_crosscoder_that_can_be_saved(tmp_path):
    generator = torch.Generator().manual_seed(0)
    x = {"a/x": torch.randn(2000, 6, generator=generator), "b/x": torch.randn(2000, 4, generator=generator)}
    sites = [Site(name, tensor.shape[1]) for name, tensor in x.items()]
    crosscoder = build_crosscoder("acausal", sites, num_latents=24)
    x_BX = crosscoder.layout.pack(x)
    training = TrainingConfig(num_tokens=20_000, batch_size=200, lr=3e-3)
    batches = (x_BX[torch.randint(2000, (200,), generator=generator)] for _ in range(100))
    list(fit(crosscoder, LossChoice.of("batchtopk", k=4).build(), batches, training, calibration_BX=x_BX))
    crosscoder.save_pretrained(tmp_path / "mine")
    loaded = Crosscoder.from_pretrained(tmp_path / "mine")
    metrics = evaluate(loaded, x_BX.split(500))
    assert metrics.explained_variance["a/x"] > 0.2 and metrics.spliced == {}
    torch.testing.assert_close(loaded(x_BX), crosscoder(x_BX))


class _Wrapper(torch.nn.Module):
    """What PEFT's wrapper looks like from outside."""

    def __init__(self, model):
        super().__init__()
        self.base_model, self.config = model, model.config

    def get_base_model(self):
        return self.base_model

    def forward(self, *args, **kwargs):
        return self.base_model(*args, **kwargs)


def padded(ids, width):
    rows = torch.zeros(1, width, dtype=torch.int64)
    rows[0, width - len(ids) :] = torch.tensor(ids)
    attention = torch.arange(width)[None] >= width - len(ids)
    none = torch.zeros_like(attention)
    return TokenBatch(rows, attention, none, none)


def test_wrapped_models_read_padded_rows_rightly():
    chat = adapters()["chat"]
    wrapped = TransformersAdapter.wrap(_Wrapper(chat.model), chat.tokenizer)
    ids = list(chat.tokenize(Text("Return the sum")).ids)
    plain = chat.logits(padded(ids, len(ids)))[0, -1]
    torch.testing.assert_close(wrapped.logits(padded(ids, len(ids) + 5))[0, -1], plain, rtol=1e-3, atol=1e-3)


def test_lora_changes_what_a_study_sees():
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
    )
    chat = adapters()["chat"]
    model = peft.get_peft_model(
        transformers.LlamaForCausalLM(config), peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    )
    wrapped = TransformersAdapter.wrap(model, chat.tokenizer, name="lora")
    tokens = padded([1, 5, 6, 7], 4)
    with_lora = wrapped.activations(tokens, ["layers.1"])["layers.1"]
    with model.disable_adapter():
        without = wrapped.activations(tokens, ["layers.1"])["layers.1"]
    assert not torch.allclose(with_lora, without)
