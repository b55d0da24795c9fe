"""Predictions about one model whose features live on windows of its layers (L1-L8, and a cross-layer transcoder).

Evaluation loss is the L1 objective on held-out samples: Σ_s‖x^s − x̂^s‖² + λ Σ_i f_i Σ_s‖d_i^s‖ in normalised space.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from common import FIRST_HELD_OUT, Clock, Scale, Verdict, spearman, train
from torch import Tensor
from torch.nn import functional

from crosscoders import Crosscoder, InitialisationConfig, Site
from crosscoders.testing import DiffWorld, DiffWorldConfig, LayerWorld, LayerWorldConfig
from crosscoders_plugins.analyses.functional_coherence import (
    FunctionalCoherence,
    FunctionalCoherenceConfig,
    effective_number,
)
from crosscoders_plugins.analyses.norm_classes import norm_share

LAYERS, WIDTH, FEATURES = 6, 32, 96
PENALTY = 0.5
L1 = {"name": "l1", "weight": PENALTY}
TOPK = {"name": "batchtopk", "k": 4}
RESIDUAL = tuple(f"layers.{i}" for i in range(LAYERS))
OUTPUTS = tuple(f"layers.{i}.out" for i in range(LAYERS))
SITES = tuple(Site(f"m/{point}", WIDTH) for point in RESIDUAL)
MATCH = 0.8


def activations(world: LayerWorld, points: tuple[str, ...], ids: Tensor) -> Tensor:
    parts = (world.activations(points, part) for part in ids.split(50_000))
    return torch.cat([torch.cat([part[p] for p in points], dim=1) for part in parts])


def held_out(scale: Scale) -> Tensor:
    return torch.arange(FIRST_HELD_OUT, FIRST_HELD_OUT + scale.held_out)


@torch.no_grad()
def objective(crosscoder: Crosscoder, x_BX: Tensor) -> dict[str, float]:
    """Evaluation loss, its parts, and L0 over all layers."""
    total = {"error": 0.0, "charge": 0.0, "l0": 0.0}
    for part in x_BX.split(10_000):
        normal_BX = crosscoder.normalised(part)
        latents = crosscoder.encode(part)
        residual = crosscoder.target(normal_BX) - crosscoder.decode_normalised(latents, normal_BX)
        total["error"] += float(residual.square().sum())
        total["charge"] += float((latents.value_N * crosscoder.score_norms()[latents.latent_N]).sum())
        total["l0"] += len(latents.latent_N)
    mean = {key: value / len(x_BX) for key, value in total.items()}
    costs = {"weights": crosscoder.wiring.num_weights, "flops": crosscoder.wiring.training_flops_per_token()}
    return {"loss": mean["error"] + PENALTY * mean["charge"], **mean, **costs}


def run(seed: int, scale: Scale) -> dict[str, Any]:
    """All runs of one seed."""
    clock, found = Clock(seed), {}
    samples = scale.samples
    world = LayerWorld(LayerWorldConfig(seed=seed))
    data, test = (activations(world, RESIDUAL, ids) for ids in (torch.arange(scale.pool), held_out(scale)))

    def once(name: str, architecture: dict[str, Any], loss: dict[str, Any] = L1) -> Crosscoder:
        crosscoder = train(architecture, SITES, loss, data, samples=samples, seed=seed)
        found[name] = clock.show(name, objective(crosscoder, test))
        return crosscoder

    for count in (16, 32, 64, 96):
        once(f"acausal {count}", {"name": "acausal", "num_latents": count})
        once(f"saes {count * LAYERS}", {"name": "per_layer_saes", "num_latents": count * LAYERS})
    for window in range(2, LAYERS):
        once(f"window {window}", {"name": "local", "num_latents": 96, "window": window})
    found["window 1"], found[f"window {LAYERS}"] = found["saes 96"], found["acausal 96"]
    for count in (96, 192):
        once(f"weakly causal {count}", {"name": "weakly_causal", "num_latents": count})
    for loss_name, loss in (("l1", L1), ("topk", TOPK)):
        for name, options in (("", {}), (" masked", {"site_masking": 0.05})):
            crosscoder = train(
                {"name": "acausal", "num_latents": 144}, SITES, {**loss, **options}, data, samples=samples, seed=seed
            )
            key = f"coherence {loss_name}{name}"
            found[key] = clock.show(key, coherence(crosscoder, world, test))
    crosscoder = train(
        {"name": "factored", "num_latents": 144, "rank": 2},
        SITES,
        {**TOPK, "site_masking": 0.05},
        data,
        samples=samples,
        seed=seed,
    )
    found["coherence factored"] = clock.show("coherence factored", coherence(crosscoder, world, test))
    found["no persistence"] = no_persistence(seed, scale, clock)
    found["profile"] = clock.show("profile", profile(seed, scale))
    for k in (2, 4):
        found[f"pre/post k={k}"] = clock.show(f"pre/post k={k}", pre_post(seed, scale, k))
    found["clt"] = clock.show("cross-layer transcoder", transcoder(seed, scale))
    return found


def no_persistence(seed: int, scale: Scale, clock: Clock) -> dict[str, Any]:
    """The control: each feature lives on one layer, so there is nothing to share."""
    world = LayerWorld(LayerWorldConfig(seed=seed, max_span=1))
    data, test = (activations(world, RESIDUAL, ids) for ids in (torch.arange(scale.pool), held_out(scale)))
    found = {}
    for name, architecture in (
        ("acausal", {"name": "acausal", "num_latents": 96}),
        ("saes", {"name": "per_layer_saes", "num_latents": 96}),
    ):
        crosscoder = train(architecture, SITES, L1, data, samples=scale.samples, seed=seed)
        found[name] = clock.show(f"no persistence {name}", objective(crosscoder, test))
    return found


def matched(crosscoder: Crosscoder, world: LayerWorld) -> tuple[Tensor, Tensor]:
    """For each feature the latent closest to it at its strongest layer, and the cosine."""
    latent_C, cosine_C = [], []
    for c, layer in enumerate(world.strength_CL.argmax(dim=1).tolist()):
        rows = functional.normalize(crosscoder.decoder_rows(f"m/layers.{layer}").detach(), dim=1)
        best = (rows @ world.directions[f"layers.{layer}"][c]).max(dim=0)
        latent_C.append(int(best.indices))
        cosine_C.append(float(best.values))
    return torch.tensor(latent_C), torch.tensor(cosine_C)


def coherence(crosscoder: Crosscoder, world: LayerWorld, test: Tensor) -> dict[str, Any]:
    """Functional coherence of the latents that match features, by how many layers the feature lives on (L7)."""
    analysis = FunctionalCoherence(FunctionalCoherenceConfig())
    change_FS, firings_F = analysis.changes(crosscoder, test[:20_000].split(5_000))
    driven_F = effective_number(change_FS / change_FS.sum(dim=1, keepdim=True))
    written_F = effective_number(norm_share(crosscoder.decoder_norms().detach()))
    latent_C, cosine_C = matched(crosscoder, world)
    start, stop = world.windows_C2.T
    good_C = (cosine_C > MATCH) & (firings_F[latent_C] >= 32)
    by_span = {span: driven_F[latent_C[good_C & (stop - start == span)]] for span in range(1, LAYERS + 1)}
    written = {span: written_F[latent_C[good_C & (stop - start == span)]] for span in range(1, LAYERS + 1)}
    return {
        "matched": float(good_C.double().mean()),
        "mean": driven_F[latent_C[good_C]].mean().item(),
        "driven_by_span": {str(span): v.mean().item() for span, v in by_span.items() if len(v)},
        "written_by_span": {str(span): v.mean().item() for span, v in written.items() if len(v)},
        "spearman": spearman(driven_F[latent_C[good_C]], (stop - start)[good_C].double()),
    }


def profile(seed: int, scale: Scale) -> dict[str, Any]:
    """Norm profiles and drift of the latents that match features with a swelling profile (L6)."""
    world = LayerWorld(LayerWorldConfig(seed=seed, profile="hump", min_span=2))
    data = activations(world, RESIDUAL, torch.arange(scale.pool))
    # Rows start different at each layer, so that what they have in common at the end was learned.
    different = InitialisationConfig(same_across_sites=False)
    crosscoder = train(
        {"name": "acausal", "num_latents": 144},
        SITES,
        TOPK,
        data,
        samples=scale.samples,
        seed=seed,
        initialisation=different,
    )
    latent_C, cosine_C = matched(crosscoder, world)
    # Raw units: the normaliser's scales differ from layer to layer.
    norms_CL = crosscoder.decoder_norms().detach()[latent_C] / crosscoder.normaliser.scale_S
    good = (cosine_C > MATCH).nonzero().squeeze(1).tolist()
    pearson = torch.tensor(
        [float(torch.corrcoef(torch.stack([norms_CL[c], world.strength_CL[c]]))[0, 1]) for c in good]
    )
    rows = torch.stack([functional.normalize(crosscoder.decoder_rows(s.name).detach(), dim=1)[latent_C] for s in SITES])
    adjacent_CL = (rows[1:] * rows[:-1]).sum(dim=2).T
    inside_CL = (world.strength_CL[:, 1:] > 0) & (world.strength_CL[:, :-1] > 0)
    inside_CL[cosine_C <= MATCH] = False
    example = sorted(good, key=lambda c: float(world.windows_C2[c, 0]) * 10 + float(world.windows_C2[c, 1]))
    picked = example[:: max(1, len(example) // 12)][:12]
    return {
        "matched": len(good) / FEATURES,
        "pearson_median": float(pearson.median()),
        "pearson_mean": float(pearson.mean()),
        "drift": float(adjacent_CL[inside_CL].mean()),
        "examples": [
            {"planted": world.strength_CL[c].tolist(), "found": (norms_CL[c] / norms_CL[c].max()).tolist()}
            for c in picked
        ],
    }


def pre_post(seed: int, scale: Scale, k: int) -> dict[str, Any]:
    """An MLP that passes some concepts on in new directions, drops some and makes some: three modes of norms (L8)."""
    config = DiffWorldConfig(
        num_shared=48, num_weak=0, num_shifted=0, num_only_a=24, num_only_b=24, shared_cosine=0.3, seed=seed
    )
    world = DiffWorld(config)
    parts = [torch.cat([world.activations(m, ids) for m in "ab"], 1) for ids in torch.arange(scale.pool).split(50_000)]
    sites = (Site("m/pre", 48), Site("m/post", 48))
    crosscoder = train(
        {"name": "pre_post_mlp", "num_latents": 144},
        sites,
        {**TOPK, "k": k},
        torch.cat(parts),
        samples=scale.samples,
        seed=seed,
    )
    ids = held_out(scale)[:40_000]
    alive = crosscoder.encode(torch.cat([world.activations(m, ids) for m in "ab"], 1)).fired_F
    share = norm_share(crosscoder.decoder_norms().detach())[alive, 1]
    modes = {"pre": share < 0.1, "both": (share > 0.3) & (share < 0.7), "post": share > 0.9}
    found = {name: float(mask.double().mean()) for name, mask in modes.items()}
    return {**found, "in_modes": sum(found.values()), "shares": [round(v, 3) for v in share.tolist()]}


def transcoder(seed: int, scale: Scale) -> dict[str, Any]:
    """A cross-layer transcoder: are features read where they begin, and written with their planted directions?"""
    world = LayerWorld(LayerWorldConfig(seed=seed))
    data = activations(world, (*RESIDUAL, *OUTPUTS), torch.arange(scale.pool))
    sites = (*SITES, *(Site(f"m/{point}", WIDTH) for point in OUTPUTS))
    crosscoder = train(
        {"name": "strictly_causal", "num_latents": 192}, sites, L1, data, samples=scale.samples, seed=seed
    )
    group_F = torch.repeat_interleave(
        torch.arange(LAYERS), torch.tensor([g.num_latents for g in crosscoder.wiring.groups])
    )
    alive = crosscoder.encode(data[:40_000]).fired_F
    recovered, at_start, whole = 0, 0, []
    for c in range(FEATURES):
        start, stop = world.windows_C2[c].tolist()
        cosines = torch.stack(
            [
                functional.normalize(crosscoder.decoder_rows(f"m/layers.{layer}.out").detach(), dim=1)
                @ world.directions[f"layers.{layer}.out"][c]
                for layer in range(start, stop)
            ]
        ).masked_fill(~alive, -1.0)
        best = int(cosines[0].argmax())
        if float(cosines[0, best]) > MATCH:
            recovered += 1
            at_start += int(group_F[best]) == start
            whole.append(float((cosines[:, best] > MATCH).double().mean()))
    return {
        "recovered": recovered / FEATURES,
        "read_at_start": at_start / max(1, recovered),
        "window_written": sum(whole) / max(1, len(whole)),
    }


def verdicts(found: dict[str, Any]) -> list[Verdict]:
    """Thresholds, stated before any run, against one seed's numbers."""
    loss = {name: value["loss"] for name, value in found.items() if isinstance(value, dict) and "loss" in value}
    l0 = found["acausal 96"]["l0"] / found["saes 96"]["l0"]
    ratio = loss["acausal 96"] / loss["saes 96"]
    small = loss["saes 96"] / loss["acausal 16"]
    control = found["no persistence"]["acausal"]["loss"] / found["no persistence"]["saes"]["loss"]
    curve = [loss[f"window {k}"] for k in range(1, LAYERS + 1)]
    steps = [a - b for a, b in itertools.pairwise(curve)]
    largest = max(steps) / (curve[0] - curve[-1])
    weakly = (loss["saes 96"] - loss["weakly causal 96"]) / (loss["saes 96"] - loss["acausal 96"])
    coherence = {name: found[f"coherence {name}"] for name in ("l1", "l1 masked", "topk", "topk masked", "factored")}
    single = coherence["l1"]["driven_by_span"].get("1", float("nan"))
    prof, clt, modes = found["profile"], found["clt"], found["pre/post k=2"]
    least = min(modes[name] for name in ("pre", "both", "post"))

    def v(key: str, prediction: str, threshold: str, value: float, holds: bool | None) -> Verdict:
        return Verdict(key, prediction, threshold, float(value), None if holds is None else bool(holds))

    return [
        v("L1", "evaluation loss, acausal over SAEs, 96 latents in all", "<= 0.50", ratio, ratio <= 0.5),
        v("L1", "global L0, the same", "<= 0.33", l0, l0 <= 1 / 3),
        v(
            "L2",
            "evaluation loss, SAEs over acausal, equal operations, smallest budget",
            "<= 1.05",
            small,
            small <= 1.05,
        ),
        v("L3", "evaluation loss, acausal over SAEs, without persistence", "0.90-1.10", control, 0.9 <= control <= 1.1),
        v("L4", "smallest gain from one window size to the next", ">= 0", min(steps), min(steps) >= 0),
        v("L4", "largest share of the whole gain in one step", "<= 0.50", largest, largest <= 0.5),
        v("L5", "weakly causal, 96 latents: place between SAEs (0) and acausal (1)", "0-1", weakly, 0 < weakly < 1),
        v(
            "L6",
            "Pearson correlation of norm profile with the planted one, median",
            "> 0.90",
            prof["pearson_median"],
            prof["pearson_median"] > 0.9,
        ),
        v(
            "L6",
            "cosine of rows at neighbouring layers where 0.95 was planted",
            "0.90-1.00",
            prof["drift"],
            abs(prof["drift"] - 0.95) <= 0.05,
        ),
        v("L7", "layers that drive latents of one-layer features, L1", "<= 1.5", single, single <= 1.5),
        v(
            "L7",
            "rank correlation of driving layers with the planted span, L1",
            ">= 0.5",
            coherence["l1"]["spearman"],
            coherence["l1"]["spearman"] >= 0.5,
        ),
        *(
            v(
                "L7",
                f"driving layers, with 5 % of sites masked minus without, {name}",
                "> 0",
                coherence[f"{short} masked"]["mean"] - coherence[short]["mean"],
                coherence[f"{short} masked"]["mean"] > coherence[short]["mean"],
            )
            for short, name in (("l1", "L1"), ("topk", "BatchTopK"))
        ),
        *(
            v(
                "L7",
                f"the same for features on all six layers, {name}",
                "> 0 (stated after seeing the curves)",
                _whole(coherence[f"{short} masked"]) - _whole(coherence[short]),
                _whole(coherence[f"{short} masked"]) > _whole(coherence[short]),
            )
            for short, name in (("l1", "L1"), ("topk", "BatchTopK"))
        ),
        v(
            "L7",
            "driving layers, factored (rank 2, masked) minus plain, BatchTopK",
            "report",
            coherence["factored"]["mean"] - coherence["topk"]["mean"],
            None,
        ),
        v(
            "L8",
            "pre/post: live latents inside the three modes of norm share, k = 2",
            ">= 0.90",
            modes["in_modes"],
            modes["in_modes"] >= 0.9,
        ),
        v("L8", "pre/post: share of the smallest mode", ">= 0.10", least, least >= 0.1),
        v("L8", "pre/post: the same at k = 4, twice the planted L0", "report", found["pre/post k=4"]["in_modes"], None),
        v("CLT", "features recovered at their first output", ">= 0.75", clt["recovered"], clt["recovered"] >= 0.75),
        v(
            "CLT",
            "of them read at the layer where the feature begins",
            ">= 0.75",
            clt["read_at_start"],
            clt["read_at_start"] >= 0.75,
        ),
        v(
            "CLT",
            "share of the window's outputs written in the planted direction",
            ">= 0.90",
            clt["window_written"],
            clt["window_written"] >= 0.9,
        ),
    ]


def _whole(found: dict[str, Any]) -> float:
    """Driving layers of the features that live on all layers."""
    return found["driven_by_span"].get(str(LAYERS), float("nan"))
