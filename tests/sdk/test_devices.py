"""Devices that are not there, devices without double precision, and contexts that a model has no positions for."""

import attrs
import pytest
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from crosscoders import (
    ConfigError,
    Crosscoder,
    NotEnoughMemoryError,
    Site,
    Study,
    Text,
    TokenBatch,
    analyse,
    build_crosscoder,
    train,
)
from crosscoders.devices import accumulator, find_device, precise
from crosscoders.models.paired import make_reader
from crosscoders_adapters.transformers import TransformersAdapter
from runs import config_of


class WithoutFloat64(TorchDispatchMode):
    """As on Apple's GPUs: no tensor of double precision can be made."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_flatten(out)[0]:
            if isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float64 and tensor.dim():
                raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return out


def test_training_and_analyses_need_no_double_precision(tmp_path):
    options = {"training": {"num_tokens": 2048}}
    exact = train(config_of(tmp_path / "exact", **options), quiet=True)
    with WithoutFloat64():
        single = train(config_of(tmp_path / "single", **options), quiet=True)
        study = Study.of(single, num_tokens=1024)
        reports = analyse(single, ["decoder_norms", "functional_coherence", "latent_scaling", "fidelity"], study=study)
    for name in ("explained_variance", "mean_squared_error"):
        for site, value in exact.info.metrics[name].items():
            assert single.info.metrics[name][site] == pytest.approx(value, rel=1e-4)
    assert len(reports) == 4 and all(report.summary for report in reports)
    scaling = reports[2].data
    (again,) = analyse(single, ["latent_scaling"], study=Study.of(single, num_tokens=1024))
    for name, beta in again.data["beta"].items():
        assert torch.allclose(torch.tensor(scaling["beta"][name]), torch.tensor(beta), atol=1e-4, equal_nan=True)
    same = sum(one == other for one, other in zip(scaling["verdict"], again.data["verdict"], strict=True))
    assert same >= 0.95 * single.num_latents


def test_sums_are_in_double_precision_where_there_is_any():
    assert accumulator(torch.device("cpu")) == {"device": torch.device("cpu"), "dtype": torch.float64}
    assert precise(torch.ones(2)).dtype == torch.float64
    with WithoutFloat64():
        assert precise(torch.ones(2)).dtype == torch.float32


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "mps", "meta", "cpu:x", "", "auto"])
def test_devices_that_are_not_there_are_named(name):
    if name in ("", "auto"):
        assert find_device(name).type == (torch.accelerator.current_accelerator() or torch.device("cpu")).type
    elif name != "mps" or not torch.backends.mps.is_available():
        with pytest.raises(ConfigError, match=f"models_device is '{name}'.*cpu"):
            find_device(name, option="models_device")


def test_a_run_and_a_checkpoint_on_a_device_that_is_not_there(tmp_path, planted_run):
    with pytest.raises(ConfigError, match="models_device is 'cuda:99', which this machine does not have"):
        train(attrs.evolve(config_of(tmp_path), models_device="cuda:99"), quiet=True)
    with pytest.raises(ConfigError, match="device is 'gpu'"):
        Crosscoder.from_pretrained(planted_run / "crosscoder", device="gpu")


class Letters:
    """Letters as tokens, each with a number of its own."""

    all_special_ids, bos_token_id, cls_token_id, chat_template = (), None, None, None

    def __init__(self, first=3):
        self.first = first

    def get_vocab(self):
        return {chr(self.first + i): i for i in range(32)}

    def __call__(self, text, **_):
        return {"input_ids": [self.first + ord(c) % 29 for c in text]}

    def decode(self, ids, **_):
        return "x" * len(ids)


GPT2 = {"vocab_size": 64, "n_positions": 24, "n_embd": 16, "n_layer": 2, "n_head": 2, "bos_token_id": 1}
BLOOM = {"vocab_size": 64, "hidden_size": 16, "n_layer": 2, "n_head": 2}
BERT_LIKE = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 24,
}


@pytest.mark.parametrize(
    ("model", "longest"),
    [
        (lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2)), 24),
        (lambda: transformers.BertModel(transformers.BertConfig(**BERT_LIKE)), 24),
        (lambda: transformers.RobertaModel(transformers.RobertaConfig(**BERT_LIKE, pad_token_id=1)), 22),
        (lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**BERT_LIKE)), 24),
        (lambda: transformers.BloomForCausalLM(transformers.BloomConfig(**BLOOM)), None),
    ],
    ids=["gpt2", "bert", "roberta", "llama", "bloom"],
)
def test_the_longest_context_is_known_and_can_be_read(model, longest):
    adapter = TransformersAdapter.wrap(model(), None)
    assert adapter.longest_context() == longest
    length = longest or 40
    on = torch.ones(1, length, dtype=torch.bool)
    batch = TokenBatch(torch.full((1, length), 5), on, ~on, ~on)
    assert torch.isfinite(adapter.activations(batch, ["layers.1"])["layers.1"]).all()


def test_longer_contexts_are_refused_before_anything_is_harvested():
    adapter = TransformersAdapter.wrap(transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2)), Letters())
    with pytest.raises(ConfigError, match="context_length is 25, but the model 'a' has positions for 24 tokens only"):
        make_reader(None, {"a": adapter}, adapter, context_length=25)
    make_reader(None, {"a": adapter}, adapter, context_length=24)
    on = torch.ones(1, 25, dtype=torch.bool)
    with pytest.raises(ConfigError, match="reads at most 24 tokens, not 25"):
        adapter.logits(TokenBatch(torch.full((1, 25), 5), on, ~on, ~on))
    with pytest.raises(ConfigError, match="reads at most 24 tokens, not 25"):
        adapter.decoder().advance(torch.full((1, 25), 5), on)


def test_a_partners_row_is_cut_where_its_positions_end():
    class Texts:
        def documents(self, *, skip=0):
            yield Text("abcdefghij" * 10)

    reading, partner = (
        TransformersAdapter.wrap(transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2)), Letters(first))
        for first in (3, 4)
    )
    reader = make_reader(Texts(), {"a": reading, "b": partner}, reading, context_length=12, repeat=False)
    rows = reader.read(2)
    assert rows.partners["b"].tokens.ids.shape[1] <= 24


def test_what_does_not_fit_into_memory_is_one_clear_error(tmp_path, monkeypatch):
    with pytest.raises(NotEnoughMemoryError, match=r"weights of this 'acausal' crosscoder, which asked for .*fewer"):
        build_crosscoder("acausal", [Site("m/x", 16)], num_latents=2**45)

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of")

    monkeypatch.setattr("crosscoders.training.trainer.Trainer.step", full)
    with pytest.raises(NotEnoughMemoryError, match=r"for this run, which asked for 2\.00 GiB more.*batch_size"):
        train(config_of(tmp_path), quiet=True)
