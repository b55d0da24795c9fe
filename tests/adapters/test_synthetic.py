"""The synthetic adapter and the worlds behind it."""

import pytest
import torch

from crosscoders import ConfigError, Edit, ModelChoice, SiteError, Text, TokenBatch
from crosscoders.testing import (
    DiffWorld,
    DiffWorldConfig,
    LayerWorld,
    LayerWorldConfig,
    ModelAdapterSuite,
    markov_pair,
)
from crosscoders.testing.worlds import normal, uniform
from crosscoders_adapters.synthetic import SyntheticConfig, SyntheticTokens, SyntheticTokensConfig


class TestSynthetic(ModelAdapterSuite):
    @pytest.fixture
    def adapter(self):
        return ModelChoice.of("synthetic", model="b").build()

    def test_text_is_refused(self, adapter):
        with pytest.raises(ConfigError, match="token ids"):
            adapter.tokenize(Text("hello"))


class TestAffineSynthetic(ModelAdapterSuite):
    @pytest.fixture
    def adapter(self):
        adapter = ModelChoice.of("synthetic", model="b", world={"width_b": 20}).build()
        assert adapter.width("x") == 20
        return adapter


class TestSyntheticLayers(ModelAdapterSuite):
    @pytest.fixture
    def adapter(self):
        return ModelChoice.of("synthetic_layers", world={"num_layers": 3, "num_features": 12, "width": 8}).build()


class TestDifference(ModelAdapterSuite):
    @pytest.fixture(scope="class")
    def adapter(self):
        return ModelChoice.of("difference", **TINY).build()


TINY = {
    "after": {"name": "transformers", "model": "tiny-pair/chat"},
    "before": {"name": "transformers", "model": "tiny-pair/base"},
}


def test_the_difference_is_after_minus_before():
    difference = ModelChoice.of("difference", **TINY).build()
    ids = torch.arange(5, 13)[None]
    none = torch.zeros_like(ids, dtype=torch.bool)
    tokens = TokenBatch(ids, ~none, none, none)
    found = difference.activations(tokens, ["layers.1", "layers.2.mlp"])
    for point, value in found.items():
        parts = [m.activations(tokens, [point])[point] for m in (difference.after, difference.before)]
        assert torch.equal(value, parts[0] - parts[1])
    # An edit that takes the whole difference away runs the layers above it on the model before's activations.
    without = difference.logits(tokens, [Edit.replace("layers.1", torch.zeros(difference.width("layers.1")))])
    patch = Edit.replace("layers.1", difference.before.activations(tokens, ["layers.1"])["layers.1"])
    torch.testing.assert_close(without, difference.after.logits(tokens, [patch]))
    assert difference.describe()["after"]["model"] == "tiny-pair/chat"


def test_a_difference_of_unlike_models_is_refused():
    with pytest.raises(ConfigError, match="different vocabularies"):
        ModelChoice.of("difference", after=TINY["after"], before={"name": "synthetic"}).build()
    wide = {"name": "synthetic", "model": "b", "world": {"width_b": 20}}
    with pytest.raises(SiteError, match="widths 20 and 48"):
        ModelChoice.of("difference", after=wide, before={"name": "synthetic"}).build().width("x")


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


def test_exclusive_concepts_can_be_rare_and_cosines_spread():
    world = DiffWorld(DiffWorldConfig(exclusive_rate=0.001, min_shared_cosine=0.2, seed=1))
    exclusive = torch.tensor([kind.startswith("only") for kind in world.kinds])
    assert world.rates_C[exclusive].unique().tolist() == pytest.approx([0.001])
    cosine = (world.directions["a"] * world.directions["b"]).sum(1)[~exclusive]
    torch.testing.assert_close(cosine, world.cosine_C[~exclusive])
    assert cosine.min() < 0.3 and cosine.max() > 0.85


def kinds_of(world, *kinds):
    return torch.tensor([kind in kinds for kind in world.kinds])


def test_a_rotated_world_has_every_concept_under_another_direction():
    world = DiffWorld(DiffWorldConfig(rotated=True, shared_cosine=1.0))
    both = kinds_of(world, "shared", "weak_in_a", "shifted")
    a, b = world.directions["a"][both], world.directions["b"][both]
    torch.testing.assert_close(b, a @ world.rotation("b"), rtol=1e-4, atol=1e-5)
    assert (a * b).sum(1).abs().mean() < 0.2


def test_strengths_and_rates_spread_as_planted():
    world = DiffWorld(DiffWorldConfig(strength_range=20.0, zipf=1.0, max_rate=0.2, min_rate=0.004, num_weak_b=10))
    assert 0.22 <= world.strength_C.min() < 0.3 and 3.5 < world.strength_C.max() <= 4.5
    ranked = world.rates_C.sort(descending=True).values
    torch.testing.assert_close(ranked[:4], 0.2 / torch.arange(1.0, 5.0))
    codes = world.codes(torch.arange(100_000))
    weak = kinds_of(world, "weak_in_b")
    ratio = (codes["b"].sum(0) / codes["a"].sum(0))[weak]
    assert ratio.min() > 0.24 and ratio.max() < 0.61


def test_children_fire_only_under_their_parents():
    world = DiffWorld(DiffWorldConfig(hierarchy_share=0.3, max_rate=0.1))
    parent_C, _ = world.parents
    children = (parent_C >= 0).nonzero().squeeze(1)
    assert len(children) == round(0.3 * len(world.kinds)) and world.kinds[int(parent_C[children[0]])] == "shared"
    fires = world.codes(torch.arange(100_000))["b"] > 0
    for child in children.tolist():
        assert not (fires[:, child] & ~fires[:, parent_C[child]]).any()
    torch.testing.assert_close(fires.float().mean(0)[kinds_of(world, "shared")],
                               world.rates_C[kinds_of(world, "shared")], rtol=0.25, atol=1e-3)  # fmt: skip


def test_topics_and_documents_keep_the_mean_rate_and_make_tokens_agree():
    plain, topics, effects = (
        DiffWorld(DiffWorldConfig(min_rate=0.05, max_rate=0.05, **more))
        for more in ({}, {"num_topics": 8, "topic_share": 0.8}, {"document_effect": 1.0})
    )
    spread = []
    for world in (plain, topics, effects):
        fires = (world.codes(torch.arange(60_000))["b"] > 0)[:, kinds_of(world, "shared")].float()
        assert fires.mean().item() == pytest.approx(0.05, rel=0.05)
        spread.append(fires.view(-1, 100, fires.shape[1]).mean(1).std(0).mean().item())
    assert spread[1] > 2 * spread[0] and spread[2] > 2 * spread[0]


def test_three_models_and_noise_with_axes_and_a_mean():
    config = DiffWorldConfig(num_models=3, num_only_c=4, num_not_c=5, noise_anisotropy=20.0, mean_norm=3.0, noise=0.1)
    world = DiffWorld(config)
    c = world.directions["c"]
    assert c[kinds_of(world, "only_a", "only_b", "not_c")].abs().sum() == 0
    assert world.directions["a"][kinds_of(world, "only_c")].abs().sum() == 0
    ids = torch.arange(5000)
    for model in "abc":
        noise = world.activations(model, ids) - world.codes(ids)[model] @ world.directions[model]
        assert noise.mean(0).norm().item() == pytest.approx(3.0, rel=0.1)
        spectrum = torch.linalg.svdvals(noise - noise.mean(0)) / 5000**0.5
        assert (spectrum[0] / spectrum[-1]).item() == pytest.approx(20, rel=0.15)
    with pytest.raises(ConfigError, match="num_models = 3"):
        DiffWorldConfig(num_only_c=1)
    with pytest.raises(ConfigError, match="num_models = 3"):
        SyntheticConfig(model="c")


def test_consecutive_documents_share_a_document_of_the_world():
    documents = SyntheticTokens(SyntheticTokensConfig(length=100, consecutive=True)).documents(skip=3)
    ids = next(documents).ids
    assert ids == tuple(range(300, 400)) and next(documents).ids[0] == 400


def test_an_affine_world_is_the_plain_one_mapped():
    plain, mapped = DiffWorld(DiffWorldConfig(noise=0.0)), DiffWorld(DiffWorldConfig(noise=0.0, width_b=64))
    ids = torch.arange(500)
    matrix, shift = mapped.affine
    torch.testing.assert_close(
        mapped.activations("b", ids), mapped.codes(ids)["b"] @ mapped.directions["b"] + shift, rtol=1e-5, atol=1e-6
    )
    assert torch.equal(mapped.activations("a", ids), plain.activations("a", ids))
    mapped_rows = torch.nn.functional.normalize(plain.directions["b"] @ matrix, dim=1)
    torch.testing.assert_close(mapped.directions["b"], mapped_rows)
    with pytest.raises(ConfigError, match="width_b cannot be set with copy"):
        DiffWorldConfig(copy=True, width_b=64)


def test_layer_world_has_the_planted_windows_drift_and_profile():
    world = LayerWorld(LayerWorldConfig(noise=0.0, profile="hump", min_span=2, seed=2))
    start, stop = world.windows_C2.T
    assert (stop - start).min() == 2 and (stop - start).max() == 6 and start.min() == 0 and stop.max() == 6
    for points in (["layers.2", "layers.3"], ["layers.2.out", "layers.3.out"]):
        cosine = (world.directions[points[0]] * world.directions[points[1]]).sum(1)
        torch.testing.assert_close(cosine, torch.full((96,), 0.95))
    middle = world.strength_CL[torch.arange(96), (start + stop) // 2]
    assert middle.min() > 0.75 and (world.strength_CL > 0).sum(1).equal(stop - start)
    ids = torch.arange(300)
    found = world.activations(["layers.4", "layers.1.out"], ids)
    x = world.codes(ids) @ (world.strength_CL[:, 4:5] * world.directions["layers.4"])
    torch.testing.assert_close(found["layers.4"], x)
    single = LayerWorld(LayerWorldConfig(max_span=1))
    assert ((single.strength_CL > 0).sum(1) == 1).all()
    with pytest.raises(ConfigError, match="spans from 3 to 2"):
        LayerWorldConfig(min_span=3, max_span=2)
