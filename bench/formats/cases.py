"""The crosscoders that are exported: one of each kind that a format can hold, with random weights."""

from __future__ import annotations

from functools import partial

import torch

from crosscoders import Crosscoder, Gate, JumpReluGate, ScoreThresholdGate, Site, TopKGate, build_crosscoder

WIDTH, LATENTS, LAYERS = 8, 24, 3
SAE = (Site("model/layers.1", WIDTH),)
PAIR = (Site("base/layers.1", WIDTH), Site("chat/layers.1", WIDTH))
TRANSCODER = (Site("model/layers.1.mlp_input", WIDTH), Site("model/layers.1.mlp", 6))
CLT = tuple(Site(f"model/layers.{n}.{point}", WIDTH) for point in ("mlp_input", "mlp") for n in range(LAYERS))


def make(architecture: str, sites: tuple[Site, ...], gate: Gate | None = None, **options: object) -> Crosscoder:
    """Random weights, another scale at each site."""
    crosscoder = build_crosscoder(architecture, sites, **options)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in crosscoder.parameters():
            parameter.normal_(generator=generator)
    crosscoder.normaliser.set_scales({site.name: 0.5 + n / 2 for n, site in enumerate(sites)})
    if gate is not None:
        crosscoder.gate = gate
    return crosscoder


def thresholds(count: int) -> JumpReluGate:
    """A threshold of its own for each latent."""
    gate = JumpReluGate(count)
    gate.threshold_F.copy_(torch.linspace(0.2, 2.0, count))
    return gate


def layers(gate: Gate | None = None, *, skip: bool = False) -> Crosscoder:
    """A transcoder for each layer."""
    pairs = [(CLT[n].name, CLT[n + LAYERS].name) for n in range(LAYERS)]
    groups = [
        {"name": f"layer{n}", "num_latents": LATENTS, "reads": [read], "writes": [written]}
        for n, (read, written) in enumerate(pairs)
    ]
    return make("explicit", CLT, gate, groups=groups, skip=pairs if skip else [])


CLT_LATENTS = LATENTS * LAYERS
SAES = partial(make, "sae", SAE, num_latents=LATENTS)
TRANSCODERS = partial(make, "transcoder", TRANSCODER, num_latents=LATENTS)
CASES = [
    ("autoencoder, relu", "saelens", SAES),
    ("autoencoder, jumprelu", "saelens", partial(SAES, thresholds(LATENTS))),
    (
        "autoencoder, score threshold",
        "saelens",
        partial(SAES, ScoreThresholdGate(4.0)),
    ),
    (
        "autoencoder, topk by activation",
        "saelens",
        partial(SAES, TopKGate(4, by="activation")),
    ),
    ("autoencoder, topk by score", "saelens", partial(SAES, TopKGate(4))),
    ("two sites side by side", "saelens", partial(make, "acausal", PAIR, ScoreThresholdGate(8.0), num_latents=LATENTS)),
    ("transcoder", "saelens", TRANSCODERS),
    ("skip transcoder", "saelens", partial(TRANSCODERS, skip=True)),
    (
        "jumprelu transcoder",
        "saelens",
        partial(TRANSCODERS, thresholds(LATENTS)),
    ),
    (
        "jumprelu skip transcoder",
        "saelens",
        partial(TRANSCODERS, thresholds(LATENTS), skip=True),
    ),
    ("CLT, relu", "circuit_tracer_clt", partial(make, "strictly_causal", CLT, num_latents=CLT_LATENTS)),
    (
        "CLT, jumprelu",
        "circuit_tracer_clt",
        partial(make, "strictly_causal", CLT, thresholds(CLT_LATENTS), num_latents=CLT_LATENTS),
    ),
    (
        "CLT, score threshold, tied",
        "circuit_tracer_clt",
        partial(make, "strictly_causal", CLT, ScoreThresholdGate(6.0), num_latents=CLT_LATENTS, tying="per_source"),
    ),
    ("two models, relu", "ckkissane", partial(make, "acausal", PAIR, num_latents=LATENTS)),
    ("two models, relu", "crosscoder_learning", partial(make, "acausal", PAIR, num_latents=LATENTS)),
    (
        "two models, score threshold",
        "crosscoder_learning",
        partial(make, "acausal", PAIR, ScoreThresholdGate(8.0), num_latents=LATENTS),
    ),
    (
        "three layers, score threshold",
        "crosscoder_learning",
        partial(make, "acausal", CLT[:3], ScoreThresholdGate(12.0), num_latents=LATENTS),
    ),
    ("per layer, relu", "circuit_tracer_plt", layers),
    ("per layer, relu, skip", "circuit_tracer_plt", partial(layers, skip=True)),
    ("per layer, jumprelu, skip", "circuit_tracer_plt", partial(layers, thresholds(CLT_LATENTS), skip=True)),
]
"""Name, format, and what makes it."""
