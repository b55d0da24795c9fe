"""Models by nnsight: the output of any module with a value for each token is a point."""

import sys
from functools import cache

import pytest
import torch

from crosscoders import ConfigError, Edit, ModelChoice, ReadsText, RunConfig, SiteError, train
from crosscoders.models.in_common import built_together
from crosscoders.models.linear import one_row
from crosscoders.testing import ModelAdapterSuite
from letters import Tokenizer
from small_models import bert, gpt2, llama, mamba, mixtral

try:
    from crosscoders_adapters.nnsight import NnsightAdapter, nnsight_library
    from crosscoders_adapters.transformers import TransformersAdapter

    nnsight_library()
    there = True
except ConfigError:
    there = False
needs_nnsight = pytest.mark.skipif(not there, reason="the extra crosscoders[nnsight] is not installed")


@cache
def adapter_of(make):
    return NnsightAdapter.wrap(make(), Tokenizer(), name=make.__name__)


@needs_nnsight
class TestNnsight(ModelAdapterSuite):
    @pytest.fixture
    def adapter(self):
        return adapter_of(llama)


@needs_nnsight
class TestNnsightOfGpt2(ModelAdapterSuite):
    @pytest.fixture
    def adapter(self):
        return adapter_of(gpt2)


@needs_nnsight
class TestNnsightOfExperts(ModelAdapterSuite):
    @pytest.fixture
    def adapter(self):
        return adapter_of(mixtral)

    def test_experts_are_points(self, adapter):
        assert "model.layers.0.mlp.experts" in adapter.points() and adapter.width("model.layers.0.mlp.experts") == 16


@needs_nnsight
class TestNnsightOfAnEncoder(ModelAdapterSuite):
    capabilities = (ReadsText,)

    @pytest.fixture
    def adapter(self):
        return adapter_of(bert)


@needs_nnsight
def test_values_are_those_that_hooks_see():
    rows = one_row([5, 9, 7, 6])
    ours, plain = adapter_of(llama), TransformersAdapter.wrap(llama(), Tokenizer())
    same = {"model.layers.1": "layers.1", "model.layers.0.mlp": "layers.0.mlp"}
    found = ours.activations(rows, list(same))
    for point, name in same.items():
        assert torch.equal(found[point], plain.activations(rows, [name])[name])
    assert torch.equal(ours.logits(rows), plain.logits(rows))
    shift = torch.linspace(-1, 1, 16)
    edited = ours.logits(rows, [Edit.add("model.layers.0", shift), Edit.add("model.layers.0.mlp", 2 * shift)])
    torch.testing.assert_close(edited, plain.logits(rows, [Edit.add("layers.0", 3 * shift)]))


@needs_nnsight
def test_states_of_mixers_are_points():
    adapter = adapter_of(mamba)
    assert {"backbone.layers.0.mixer", "backbone.layers.0.mixer.x_proj"} <= set(adapter.points())
    found = adapter.activations(one_row([5, 9, 7]), ["backbone.layers.1.mixer"])
    assert found["backbone.layers.1.mixer"].shape == (1, 3, 16)


@needs_nnsight
def test_what_is_not_a_point_is_refused_with_what_is():
    with pytest.raises(SiteError, match=r"no point 'model\.layers\.7\.mlp'; there are model\.layers\.0\.mlp, model"):
        adapter_of(llama).width("model.layers.7.mlp")
    with pytest.raises(SiteError, match=r"and \d+ more"):
        adapter_of(llama).width("nothing")


@needs_nnsight
def test_models_of_the_same_files_share_their_weights_and_not_their_edits():
    files = {"model": "tiny-pair/base"}
    with built_together():
        first, second = (ModelChoice.of("nnsight", **files).build() for _ in range(2))
        beside = ModelChoice.of("transformers", **files).build()
    rows = one_row([5, 9, 7])
    assert first.model.lm_head.weight is second.model.lm_head.weight is beside.model.lm_head.weight
    plain = beside.logits(rows)
    edited = first.logits(rows, [Edit.replace("model.layers.1", torch.zeros(192))])
    assert not torch.allclose(edited, plain)
    assert torch.equal(second.logits(rows), plain) and torch.equal(beside.logits(rows), plain)


@needs_nnsight
def test_it_trains_from_a_config_and_says_so(tmp_path):
    config = RunConfig.from_dict(
        {
            "models": {"chat": {"name": "nnsight", "model": "tiny-pair/chat"}},
            "sites": ["chat/model.layers.1.self_attn.o_proj", "chat/model.layers.2"],
            "tokens": {"name": "python_library"},
            "architecture": {"name": "acausal", "num_latents": 64},
            "loss": {"name": "batchtopk", "k": 4},
            "activations": {"context_length": 32, "block_tokens": 1024, "calibration_tokens": 512},
            "training": {"num_tokens": 512, "batch_size": 128, "evaluation_tokens": 128, "fidelity_tokens": 64},
            "output": str(tmp_path / "run"),
        }
    )
    crosscoder = train(config, quiet=True)
    assert crosscoder.info.models["chat"]["adapter"] == "nnsight"
    assert [site.width for site in crosscoder.sites] == [192, 192]


@pytest.mark.parametrize("name", ["nnsight", "transformer_lens"])
def test_without_the_library_the_extra_is_named(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    command = f"crosscoders[{name.replace('_', '-')}]"
    with pytest.raises(ConfigError) as caught:
        ModelChoice.of(name, model="tiny-pair/base").build()
    assert command in str(caught.value) and "pip install" in str(caught.value)


@needs_nnsight
def test_another_version_of_it_is_refused(monkeypatch):
    monkeypatch.setattr(nnsight_library(), "__version__", "0.9.0")
    with pytest.raises(ConfigError, match=r"is for nnsight>=0\.8,<0\.9, and nnsight 0\.9\.0 is here"):
        nnsight_library()
