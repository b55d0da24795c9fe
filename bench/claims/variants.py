"""Every other architecture and loss against planted truth: the share of concepts or features each recovers (V)."""

from __future__ import annotations

from typing import Any

import diff
import layers
import torch
from common import FIRST_HELD_OUT, Clock, Scale, Verdict, train
from torch import Tensor
from torch.nn import functional

from crosscoders import Crosscoder, Site
from crosscoders.testing import DiffWorld, DiffWorldConfig, LayerWorld, LayerWorldConfig

FEW = {"name": "batchtopk", "k": 3}
NESTED = {"name": "matryoshka", "levels": [0.25, 0.5, 1.0], "of": {"name": "acausal", "num_latents": 192}}
TIED = {"name": "designated_shared", "num_latents": 192, "designated_share": 0.5}

DIFF: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "topk": (diff.acausal(192), {"name": "topk", "k": 3}),
    "jumprelu, tanh": (diff.acausal(192), {"name": "jumprelu", "weight": 1.0, "target_l0": 3.0}),
    "jumprelu, quadratic": (
        diff.acausal(192),
        {"name": "jumprelu", "penalty": "quadratic", "weight": 10.0, "target_l0": 3.0, "ramp_share": 0.2},
    ),
    "batchtopk, k annealed from 20": (diff.acausal(192), {**FEW, "k_start": 20, "anneal_share": 0.3}),
    "l1, L0 steered to 3": (diff.acausal(192), {"name": "l1", "weight": 0.5, "target_l0": 3.0}),
    "matryoshka_batchtopk": (NESTED, {"name": "matryoshka_batchtopk", "k": 3}),
    "dedicated, dfc": (
        diff.dedicated(192, 0.08),
        {"name": "dfc", "k": 3, "shared_weight": 0.1, "exclusive_weight": 0.1},
    ),
    "designated_shared, dsf": (TIED, {"name": "dsf", "weight": 2.0, "designated_share": 0.7}),
    "designated_shared, delta": (TIED, {"name": "delta", "k": 2, "k_shared": 2}),
}
"""Architectures and losses on the diff world."""

RESIDUAL, OUTPUT = "layers.2", "layers.2.out"
LAYERS: dict[str, tuple[dict[str, Any], tuple[str, ...], tuple[str, ...]]] = {
    "acausal": ({"name": "acausal", "num_latents": 144}, layers.RESIDUAL, layers.RESIDUAL),
    "factored, rank 2": ({"name": "factored", "num_latents": 144, "rank": 2}, layers.RESIDUAL, layers.RESIDUAL),
    "per_layer_saes": ({"name": "per_layer_saes", "num_latents": 864}, layers.RESIDUAL, layers.RESIDUAL),
    "local, window 3": ({"name": "local", "num_latents": 576, "window": 3}, layers.RESIDUAL, layers.RESIDUAL),
    "weakly_causal": ({"name": "weakly_causal", "num_latents": 432}, layers.RESIDUAL, layers.RESIDUAL),
    "weakly_causal, reading up_to": (
        {"name": "weakly_causal", "num_latents": 432, "reads": "up_to"},
        layers.RESIDUAL,
        layers.RESIDUAL,
    ),
    "strictly_causal": (
        {"name": "strictly_causal", "num_latents": 432},
        (*layers.RESIDUAL, *layers.OUTPUTS),
        layers.OUTPUTS,
    ),
    "sae": ({"name": "sae", "num_latents": 144}, (RESIDUAL,), (RESIDUAL,)),
    "transcoder": ({"name": "transcoder", "num_latents": 144}, (RESIDUAL, OUTPUT), (OUTPUT,)),
    "transcoder, skip": ({"name": "transcoder", "num_latents": 144, "skip": True}, (RESIDUAL, OUTPUT), (OUTPUT,)),
    "pre_post_mlp": ({"name": "pre_post_mlp", "num_latents": 144}, (RESIDUAL, OUTPUT), (RESIDUAL, OUTPUT)),
}
"""Architectures on the layer world: sites, and those where features are looked for."""


def run(seed: int, scale: Scale) -> dict[str, Any]:
    """All runs of one seed."""
    clock, found = Clock(seed), {"diff": {}, "layers": {}}
    world = DiffWorld(DiffWorldConfig(seed=seed))
    data = diff.activations(world, torch.arange(scale.pool))
    for name, (architecture, loss) in DIFF.items():
        crosscoder = train(architecture, diff.sites_of(world), loss, data, samples=scale.samples, seed=seed)
        found["diff"][name] = clock.show(name, diff.measure(crosscoder, world, scale))
    layer_world = LayerWorld(LayerWorldConfig(seed=seed))
    points = (*layers.RESIDUAL, *layers.OUTPUTS)
    whole = layers.activations(layer_world, points, torch.arange(scale.pool))
    columns = dict(zip(points, whole.split(layers.WIDTH, dim=1), strict=True))
    held_out = torch.arange(FIRST_HELD_OUT, FIRST_HELD_OUT + scale.held_out)
    for name, (architecture, sites, written) in LAYERS.items():
        crosscoder = train(
            architecture,
            tuple(Site(f"m/{p}", layers.WIDTH) for p in sites),
            layers.L1,
            torch.cat([columns[p] for p in sites], dim=1),
            samples=scale.samples,
            seed=seed,
        )
        test = layers.activations(layer_world, sites, held_out)
        found["layers"][name] = clock.show(name, recovery(crosscoder, layer_world, written, test))
    return found


def recovery(crosscoder: Crosscoder, world: LayerWorld, points: tuple[str, ...], test: Tensor) -> dict[str, float]:
    """Of all features at all `points` where they live, the share that some live latent's row there matches."""
    latents = crosscoder.encode(test)
    hits, places = 0, 0
    for point in points:
        layer = int(point.split(".")[1])
        lives = world.strength_CL[:, layer] > 0
        rows = functional.normalize(crosscoder.decoder_rows(f"m/{point}").detach()[latents.fired_F], dim=1)
        cosine_C = (rows @ world.directions[point].T).max(dim=0).values
        hits += int((cosine_C[lives] > layers.MATCH).sum())
        places += int(lives.sum())
    return {"recovered": hits / places, "l0": latents.l0, "weights": crosscoder.wiring.num_weights}


def verdicts(found: dict[str, Any]) -> list[Verdict]:
    """Thresholds, stated before any run, against one seed's numbers."""
    rows = []
    for name, numbers in found["diff"].items():
        shared = (numbers["shared_a"] + numbers["shared_b"]) / 2
        exclusive = (numbers["only_a"] + numbers["only_b"]) / 2
        rows += [
            Verdict("V", f"`{name}`: shared concepts recovered", ">= 0.90", shared, shared >= 0.9),
            Verdict("V", f"`{name}`: exclusive concepts recovered", ">= 0.75", exclusive, exclusive >= 0.75),
        ]
    for name, numbers in found["layers"].items():
        share = numbers["recovered"]
        rows.append(Verdict("V", f"`{name}`: features recovered where they live", ">= 0.75", share, share >= 0.75))
    return rows
