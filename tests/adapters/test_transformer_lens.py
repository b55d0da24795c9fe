"""Models by TransformerLens: its hook names are the points."""

from functools import cache

import pytest
import torch

from crosscoders import ConfigError, Edit, ModelChoice
from crosscoders.models.in_common import built_together
from crosscoders.models.linear import one_row
from crosscoders.testing import ModelAdapterSuite
from crosscoders_adapters.transformers import TransformersAdapter
from letters import Tokenizer
from small_models import bert, gpt2, llama

try:
    from crosscoders_adapters.transformer_lens import TransformerLensAdapter, transformer_lens_library

    transformer_lens_library()
    there = True
except ConfigError:
    there = False
pytestmark = pytest.mark.skipif(not there, reason="the extra crosscoders[transformer-lens] is not installed")


def short_llama():
    return llama(layers=1)


@cache
def adapter_of(make):
    return TransformerLensAdapter.wrap(make(), Tokenizer(), name=make.__name__)


class TestTransformerLens(ModelAdapterSuite):
    @pytest.fixture
    def adapter(self):
        return adapter_of(short_llama)


@pytest.mark.slow
class TestTransformerLensOfGpt2(ModelAdapterSuite):
    @pytest.fixture
    def adapter(self):
        return adapter_of(gpt2)


SAME = {
    "blocks.1.hook_resid_pre": "layers.1.input",
    "blocks.1.hook_attn_out": "layers.1.attention",
    "blocks.1.hook_mlp_out": "layers.1.mlp",
    "blocks.1.hook_resid_post": "layers.1",
}


@pytest.mark.parametrize("make", [llama, gpt2])
def test_values_are_those_of_the_points_of_the_same_meaning(make):
    rows, lens = one_row([5, 9, 7, 6]), adapter_of(make)
    plain = TransformersAdapter.wrap(make(), Tokenizer())
    found = lens.activations(rows, list(SAME))
    for name, point in SAME.items():
        torch.testing.assert_close(found[name], plain.activations(rows, [point])[point], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(lens.logits(rows), plain.logits(rows), rtol=1e-5, atol=1e-5)
    mid = lens.activations(rows, ["blocks.1.hook_resid_mid"])["blocks.1.hook_resid_mid"]
    torch.testing.assert_close(mid, found["blocks.1.hook_resid_post"] - found["blocks.1.hook_mlp_out"])


def values(adapter, name, rows=None):
    return adapter.activations(rows or one_row([5, 9, 7, 6]), [name])[name]


def test_heads_are_one_vector_a_token():
    assert adapter_of(llama).width("blocks.0.attn.hook_z") == 16
    assert values(adapter_of(llama), "blocks.0.attn.hook_k").shape == (1, 4, 8)


def test_compatibility_mode_is_part_of_the_description_and_of_the_numbers():
    """It folds norms' gains into what follows: the same predictions, other activations."""
    rows = one_row([5, 9, 7, 6])
    folded = ModelChoice.of("transformer_lens", model="tiny-pair/base", compatibility_mode=True).build()
    plain = ModelChoice.of("transformer_lens", model="tiny-pair/base").build()
    assert (folded.describe()["compatibility_mode"], plain.describe()["compatibility_mode"]) == (True, False)
    left, right = (adapter.logits(rows).log_softmax(-1) for adapter in (folded, plain))
    torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-3)
    for name in ("blocks.1.ln2.hook_out",):
        assert not torch.allclose(values(folded, name), values(plain, name), rtol=0.01, atol=1e-3)


def test_a_model_of_the_same_files_beside_it_stays_as_it_is():
    """Models that are built together share their weights, but not with one that changes them."""
    files = {"model": "tiny-pair/base"}
    plain = ModelChoice.of("transformers", **files).build().logits(one_row([5, 9, 7]))
    with built_together():
        folded = ModelChoice.of("transformer_lens", **files, compatibility_mode=True).build()
        bridged = ModelChoice.of("transformer_lens", **files).build()
        beside = ModelChoice.of("transformers", **files).build()
    assert torch.equal(beside.logits(one_row([5, 9, 7])), plain)
    assert folded.model is not bridged.model and bridged.model is not beside.model
    modules = {type(module).__module__.split(".")[0] for module in beside.model.modules()}
    assert "transformer_lens" not in modules


def test_a_decoder_sees_the_new_tokens_only_and_keeps_what_it_changed():
    adapter, seen = adapter_of(llama), []
    shift = torch.linspace(-1, 1, 16)

    def apply(activation):
        seen.append(activation.shape[1])
        return activation + len(seen) * shift

    decoder = adapter.decoder([Edit("blocks.0.hook_resid_post", apply)])
    ids = torch.tensor([[5, 9, 7, 6]])
    there = torch.ones_like(ids, dtype=torch.bool)
    decoder.advance(ids[:, :2], there[:, :2])
    decoder.advance(ids[:, 2:3], there[:, 2:3])
    last = decoder.advance(ids[:, 3:], there[:, 3:])
    assert seen == [2, 1, 1]
    step = torch.tensor([1, 1, 2, 3])[:, None] * shift
    expected = adapter.logits(one_row([5, 9, 7, 6]), [Edit("blocks.0.hook_resid_post", lambda a: a + step)])
    torch.testing.assert_close(last, expected[:, -1])


def test_an_encoder_is_refused():
    with pytest.raises(ConfigError, match="is an encoder"):
        adapter_of(bert)
