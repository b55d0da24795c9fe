"""Tiny random models and crosscoders for tests of circuits."""

from functools import cache

import torch
import transformers

import letters
from crosscoders import Crosscoder, LatentGroup, Site, Wiring, build_crosscoder
from crosscoders_adapters.transformers import TransformersAdapter

SIZES = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
PROMPT = [1, 9, 12, 7, 8, 14, 20]


class Tokenizer(letters.Tokenizer):
    """Its texts begin with BOS, and letters are their places in the alphabet."""

    def __call__(self, text, **_):
        return {"input_ids": [1, *(ord(c) - 97 for c in text)]}


@cache
def tiny(family="llama", layers=3):
    """A random model with biases and gains that are not 0 and 1."""
    torch.manual_seed(0)
    sizes = {**SIZES, "num_hidden_layers": layers}
    config = {
        "llama": lambda: transformers.LlamaConfig(
            **sizes, num_key_value_heads=1, head_dim=8, attention_bias=True, mlp_bias=True
        ),
        "gpt2": lambda: transformers.GPT2Config(
            vocab_size=32, n_embd=16, n_layer=layers, n_head=2, n_positions=64, bos_token_id=1, eos_token_id=2
        ),
        "gpt_neox": lambda: transformers.GPTNeoXConfig(**sizes),
        "gemma2": lambda: transformers.Gemma2Config(
            **sizes, num_key_value_heads=1, head_dim=8, query_pre_attn_scalar=8, final_logit_softcapping=2.0
        ),
    }[family]()
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return TransformersAdapter.wrap(model, Tokenizer(), name=family)


def randomised(crosscoder, seed=0, sparsity=0.5):
    """Random weights, biases and scales, with about a third of latents on."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in crosscoder.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5)
            if name == "b_enc_F":
                parameter.sub_(sparsity)
        scales = 0.5 + torch.rand(len(crosscoder.sites), generator=generator)
        crosscoder.normaliser.set_scales(dict(zip(crosscoder.layout.names, scales.tolist())))
    return crosscoder


def clt(adapter, *, num_latents=36, skip=False, seed=0):
    """A cross-layer transcoder of all MLPs of a model."""
    layers = range(len(adapter.layers))
    points = [f"layers.{i}.mlp_input" for i in layers] + [f"layers.{i}.mlp" for i in layers]
    sites = tuple(Site(f"m/{p}", adapter.width(p)) for p in points)
    return randomised(build_crosscoder("strictly_causal", sites, num_latents=num_latents, skip=skip), seed)


def transcoder(adapter, layer, *, num_latents=10, skip=False, seed=0):
    """A transcoder of one MLP."""
    sites = tuple(Site(f"m/layers.{layer}.{p}", adapter.width(f"layers.{layer}.{p}")) for p in ("mlp_input", "mlp"))
    return randomised(build_crosscoder("transcoder", sites, num_latents=num_latents, skip=skip), seed + layer)


def wired(adapter, *groups, skip=(), num_latents=6):
    """A crosscoder of groups given as (reads, writes), each a list of points."""
    names = sorted({f"m/{p}" for reads, writes in groups for p in (*reads, *writes)})
    sites = tuple(Site(name, adapter.width(name.partition("/")[2])) for name in names)
    made = tuple(
        LatentGroup(f"g{i}", num_latents, reads=[f"m/{p}" for p in reads], writes=[f"m/{p}" for p in writes])
        for i, (reads, writes) in enumerate(groups)
    )
    skip = [(f"m/{read}", f"m/{written}") for read, written in skip]
    return randomised(Crosscoder(Wiring(sites=sites, groups=made, skip=skip)))


M0, M1, M2 = (f"layers.{i}.mlp" for i in range(3))
I0, I1, I2 = (f"layers.{i}.mlp_input" for i in range(3))
A0, A1 = (f"layers.{i}.attention" for i in range(2))


def models(name):
    if name == "clt":
        return clt(tiny())
    if name == "clt with skips":
        return clt(tiny(), skip=True)
    if name == "transcoders":
        return [transcoder(tiny(), i) for i in range(3)]
    if name == "mixed, one layer left out":
        return [transcoder(tiny(), 0, skip=True), transcoder(tiny(), 2, num_latents=14)]
    return wired(tiny(), ([A0], [A0, A1]), ([I0], [M0, M2]), ([A1], [A1]), ([I1], [M1]))


NAMES = ["clt", "clt with skips", "transcoders", "mixed, one layer left out", "attention too"]
