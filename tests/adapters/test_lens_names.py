"""TransformerLens' names for sites of the adapter `transformers`: taken as ours, or refused with those that are."""

import pytest

from crosscoders import ModelChoice, RunConfig, SiteError, harvest, train
from crosscoders.activations.harvest import resolve_sites
from crosscoders_adapters.lens_names import canonical_point
from crosscoders_adapters.transformers import TransformersAdapter
from letters import Tokenizer
from small_models import llama

OURS = {
    "blocks.1.hook_resid_pre": "layers.1.input",
    "blocks.1.hook_attn_out": "layers.1.attention",
    "blocks.1.attn.hook_out": "layers.1.attention",
    "blocks.1.mlp.hook_in": "layers.1.mlp_input",
    "blocks.1.hook_mlp_out": "layers.1.mlp",
    "blocks.13.hook_resid_post": "layers.13",
}


@pytest.mark.parametrize(("name", "point"), OURS.items())
def test_names_are_ours(name, point):
    assert canonical_point(name) == point


@pytest.mark.parametrize(
    "name", ["layers.1.mlp", "final", "blocks.1.hook_resid_mid", "blocks.1.attn.hook_z", "blocks.x.hook_mlp_out"]
)
def test_other_names_stay_as_they_are(name):
    assert canonical_point(name) == name


def config(tmp_path, *sites, **more):
    return RunConfig.from_dict(
        {
            "models": {"chat": {"name": "transformers", "model": "tiny-pair/chat"}},
            "sites": list(sites),
            "tokens": {"name": "python_library"},
            "architecture": {"name": "acausal", "num_latents": 64},
            "loss": {"name": "batchtopk", "k": 4},
            "activations": {"context_length": 32, "block_tokens": 1024, "calibration_tokens": 512},
            "training": {"num_tokens": 512, "batch_size": 128, "evaluation_tokens": 128, "fidelity_tokens": 64},
            "output": str(tmp_path / "run"),
            **more,
        }
    )


def test_a_run_and_its_cache_go_by_our_names(tmp_path):
    lens = config(tmp_path, "chat/blocks.0.hook_resid_post", "chat/blocks.1.hook_mlp_out")
    ours = config(tmp_path, "chat/layers.0", "chat/layers.1.mlp")
    assert lens == ours and lens.to_dict()["sites"] == ["chat/layers.0", "chat/layers.1.mlp"]
    harvest(lens, tmp_path / "cache", quiet=True)
    crosscoder = train(
        config(tmp_path, "chat/blocks.0.hook_resid_post", "chat/layers.1.mlp", cache=str(tmp_path / "cache")),
        quiet=True,
    )
    assert [site.name for site in crosscoder.sites] == ["chat/layers.0", "chat/layers.1.mlp"]


def test_models_in_memory_take_them_too():
    adapter = TransformersAdapter.wrap(llama(), Tokenizer())
    layout = resolve_sites({"m": adapter}, ["m/blocks.0.hook_resid_post", "m/layers.1.input"])
    assert layout.names == ("m/layers.0", "m/layers.1.input")
    with pytest.raises(SiteError, match="listed twice: m/layers.0"):
        resolve_sites({"m": adapter}, ["m/blocks.0.hook_resid_post", "m/layers.0"])


@pytest.mark.parametrize("name", ["blocks.0.hook_resid_mid", "blocks.0.attn.hook_z", "hook_embed", "blocks.9.hook_mlp"])
def test_names_that_are_not_ours_are_refused_with_those_that_are(name):
    adapter = TransformersAdapter.wrap(llama(), Tokenizer())
    with pytest.raises(SiteError) as caught:
        resolve_sites({"m": adapter}, [f"m/{name}"])
    assert "blocks.0.hook_resid_pre" in str(caught.value) and "'transformer_lens' takes them all" in str(caught.value)
    with pytest.raises(SiteError) as caught:
        resolve_sites({"m": adapter}, ["m/layer.0"])
    assert "TransformerLens" not in str(caught.value)


def test_layers_that_are_not_there_are_refused_by_our_name():
    with pytest.raises(SiteError, match=r"no point 'layers\.7\.mlp'; it has layers\.0 to layers\.1"):
        resolve_sites({"m": TransformersAdapter.wrap(llama(), Tokenizer())}, ["m/blocks.7.hook_mlp_out"])


@pytest.mark.parametrize("name", ["nnsight", "transformer_lens"])
def test_adapters_with_names_of_their_own_keep_them(tmp_path, name):
    models = {"chat": {"name": name, "model": "tiny-pair/chat"}}
    assert config(tmp_path, "chat/blocks.0.hook_mlp_out", models=models).sites == ("chat/blocks.0.hook_mlp_out",)
    assert ModelChoice.of(name, model="tiny-pair/chat").options.canonical_point is None
