"""The synthetic adapter and the worlds behind it."""

import pytest
import torch

from crosscoders import ConfigError, ModelChoice, Text
from crosscoders.testing import DiffWorld, DiffWorldConfig, ModelAdapterSuite, markov_pair
from crosscoders.testing.worlds import normal, uniform


class TestSynthetic(ModelAdapterSuite):
    @pytest.fixture
    def adapter(self):
        return ModelChoice.of("synthetic", model="b").build()

    def test_text_is_refused(self, adapter):
        with pytest.raises(ConfigError, match="token ids"):
            adapter.tokenize(Text("hello"))


class TestMarkov(ModelAdapterSuite):
    @pytest.fixture
    def adapter(self):
        words = tuple(f"w{i}" for i in range(30))
        from crosscoders.testing.fakes import MarkovModel

        return MarkovModel(torch.randn(30, 30, generator=torch.Generator().manual_seed(0)), words)


def test_hashed_numbers_are_uniform_normal_and_independent():
    ids = torch.arange(20_000)
    u, z = uniform(ids, 8, stream=1), normal(ids, 8, stream=2)
    assert u.mean().item() == pytest.approx(0.5, abs=0.005) and u.var().item() == pytest.approx(1 / 12, abs=0.002)
    assert z.mean().item() == pytest.approx(0, abs=0.01) and z.var().item() == pytest.approx(1, abs=0.02)
    for table in (u, z, torch.cat([u, uniform(ids, 8, stream=3)], 1)):
        off = torch.corrcoef(table.T) - torch.eye(table.shape[1])
        assert off.abs().max() < 0.03
    assert torch.equal(uniform(ids[5:9], 8, stream=1), u[5:9])
    assert len(u.unique()) > 150_000


def test_world_has_the_planted_structure():
    world = DiffWorld(DiffWorldConfig(seed=3))
    a, b = world.directions["a"], world.directions["b"]
    kinds = torch.tensor([["shared", "weak_in_a", "shifted", "only_a", "only_b"].index(k) for k in world.kinds])
    cosine = (a * b).sum(1)
    torch.testing.assert_close(cosine[kinds <= 2], torch.full((88,), 0.95))
    assert a[kinds == 4].abs().sum() == 0 and b[kinds == 3].abs().sum() == 0
    codes = world.codes(torch.arange(200_000))
    rate = {m: (codes[m] > 0).float().mean(0) for m in "ab"}
    torch.testing.assert_close(rate["a"][kinds == 0], world.rates_C[kinds == 0], rtol=0.2, atol=1e-3)
    both = ((codes["a"] > 0) & (codes["b"] > 0)).float().mean(0)[kinds == 2]
    torch.testing.assert_close(both / world.rates_C[kinds == 2], torch.full((12,), 0.6), rtol=0.1, atol=0)
    ratio = (codes["a"].sum(0) / codes["b"].sum(0))[kinds == 1]
    assert ratio.min() > 0.25 and ratio.max() < 0.6
    assert (codes["a"] > 0).sum(1).float().mean().item() == pytest.approx(
        float(world.rates_C[kinds != 4].sum()), rel=0.15
    )


def test_a_copy_is_exact():
    world = DiffWorld(DiffWorldConfig(copy=True))
    ids = torch.arange(100)
    assert torch.equal(world.activations("a", ids), world.activations("b", ids))
    noisy = DiffWorld(DiffWorldConfig(copy=True, copy_noise=0.1))
    difference = noisy.activations("b", ids) - noisy.activations("a", ids)
    assert difference.std().item() == pytest.approx(0.1, rel=0.1)


def test_markov_pair_has_the_planted_rates():
    before, after = markov_pair(rate=0.02, base_rate=1e-4)
    assert before.logits_VV[5].softmax(0)[1].item() == pytest.approx(1e-4, rel=1e-3)
    assert after.logits_VV[5].softmax(0)[1].item() == pytest.approx(0.02, rel=1e-3)
