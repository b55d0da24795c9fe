"""Small versions of what `bench/claims` records: planted truth must come out in seconds of training.

Of architectures that share latents alike, and of losses that select alike, one stands for the others among quick tests.
"""

import json
from functools import cache

import attrs
import pytest
import torch
from torch.nn import functional

from crosscoders import (
    LossChoice,
    ModelChoice,
    Site,
    Study,
    TokenSourceChoice,
    TrainingConfig,
    analyse,
    build_crosscoder,
    fit,
)
from crosscoders.activations import ActivationConfig, MaskConfig
from crosscoders.testing import DiffWorld, DiffWorldConfig, LayerWorld, LayerWorldConfig
from crosscoders_plugins.analyses.norm_classes import classes_of, delta_norm, width_free_norms

LAYERS = LayerWorld(LayerWorldConfig(num_layers=3, num_features=18, width=16, min_rate=0.03, max_rate=0.08))
PAIR = DiffWorld(
    DiffWorldConfig(
        num_shared=12, num_weak=0, num_shifted=0, num_only_a=4, num_only_b=4, width=16, min_rate=0.03, max_rate=0.08
    )
)
RESIDUAL = tuple(f"layers.{i}" for i in range(3))
OUTPUTS = tuple(f"layers.{i}.out" for i in range(3))
STEPS = 800


def train(architecture, sites, loss, x_BX):
    """A crosscoder trained on activations of STEPS + 1 batches, the first of which calibrates."""
    crosscoder = build_crosscoder(architecture.pop("name"), sites, **architecture)
    made = LossChoice.of(loss.pop("name"), **loss).build()
    config = TrainingConfig(num_tokens=STEPS * 256, batch_size=256, lr=5e-3, dead_after_share=0.05)
    list(fit(crosscoder, made, iter(x_BX.split(256)), config))
    return crosscoder


IDS = torch.arange((STEPS + 1) * 256)


@cache
def of_layers(points):
    return torch.cat(list(LAYERS.activations(points, IDS).values()), 1)


def of_models(world):
    return torch.cat([world.activations(model, IDS) for model in "ab"], 1)


@cache
def of_pair():
    return of_models(PAIR)


def on_layers(architecture, points=RESIDUAL, loss=None):
    sites = tuple(Site(f"m/{point}", 16) for point in points)
    return train(architecture, sites, loss or {"name": "l1", "weight": 0.5}, of_layers(points))


def on_pair(architecture, loss):
    return _on_pair(json.dumps([architecture, loss]))


@cache
def _on_pair(chosen):
    return train(json.loads(chosen)[0], (Site("a/x", 16), Site("b/x", 16)), json.loads(chosen)[1], of_pair())


def closest(crosscoder, site, directions_CD):
    rows = functional.normalize(crosscoder.decoder_rows(site).detach(), dim=1)
    return (rows @ directions_CD.T).max(dim=0)


@pytest.mark.parametrize(
    "architecture",
    [
        {"name": "acausal", "num_latents": 27},
        {"name": "weakly_causal", "num_latents": 66},
        pytest.param({"name": "local", "num_latents": 48, "window": 2}, marks=pytest.mark.slow),
        {"name": "per_layer_saes", "num_latents": 66},
        pytest.param({"name": "factored", "num_latents": 27, "rank": 1}, marks=pytest.mark.slow),
    ],
    ids=lambda a: a["name"],
)
def test_features_are_found_at_every_layer_where_they_live(architecture):
    crosscoder = on_layers(dict(architecture))
    found = []
    for layer, point in enumerate(RESIDUAL):
        lives = LAYERS.strength_CL[:, layer] > 0
        found += (closest(crosscoder, f"m/{point}", LAYERS.directions[point]).values[lives] > 0.8).tolist()
    assert sum(found) / len(found) >= 0.8, sum(found) / len(found)


def test_a_cross_layer_transcoder_reads_where_a_feature_begins_and_writes_all_its_outputs():
    crosscoder = on_layers({"name": "strictly_causal", "num_latents": 66}, (*RESIDUAL, *OUTPUTS))
    sizes = torch.tensor([group.num_latents for group in crosscoder.wiring.groups])
    group_F = torch.arange(3).repeat_interleave(sizes)
    found, at_start = 0, 0
    for c, (start, stop) in enumerate(LAYERS.windows_C2.tolist()):
        best = closest(crosscoder, f"m/{OUTPUTS[start]}", LAYERS.directions[OUTPUTS[start]])
        latent = int(best.indices[c])
        cosines = [
            functional.cosine_similarity(crosscoder.decoder_rows(f"m/{p}")[latent], LAYERS.directions[p][c], dim=0)
            for p in OUTPUTS[start:stop]
        ]
        if min(cosines) > 0.8:
            found += 1
            at_start += int(group_F[latent]) == start
    assert found >= 13 and at_start >= 0.8 * found, (found, at_start)


@pytest.mark.parametrize(
    ("architecture", "loss"),
    [
        ({"name": "acausal", "num_latents": 32}, {"name": "topk", "k": 2}),
        ({"name": "acausal", "num_latents": 32}, {"name": "jumprelu", "weight": 0.5, "target_l0": 1.5}),
        pytest.param(
            {"name": "acausal", "num_latents": 32},
            {"name": "jumprelu", "penalty": "quadratic", "weight": 5.0, "target_l0": 1.5, "ramp_share": 0.2},
            marks=pytest.mark.slow,
        ),
        (
            {"name": "matryoshka", "levels": [0.75, 1.0], "of": {"name": "acausal", "num_latents": 32}},
            {"name": "matryoshka_batchtopk", "k": 2},
        ),
        ({"name": "dedicated", "num_latents": 40, "exclusive_share": 0.2}, {"name": "batchtopk", "k": 2}),
        pytest.param(
            {"name": "dedicated", "num_latents": 40, "exclusive_share": 0.2},
            {"name": "dfc", "k": 2},
            marks=pytest.mark.slow,
        ),
        (
            {"name": "designated_shared", "num_latents": 40, "designated_share": 0.5},
            {"name": "delta", "k": 2, "k_shared": 1},
        ),
        pytest.param(
            {"name": "designated_shared", "num_latents": 40, "designated_share": 0.5},
            {"name": "dsf", "weight": 0.5, "designated_share": 0.7},
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda table: table["name"],
)
def test_shared_and_exclusive_concepts_are_found(architecture, loss):
    crosscoder = on_pair(dict(architecture), dict(loss))
    kinds = {"shared": "b", "only_a": "a", "only_b": "b"}
    share = {}
    for kind, model in kinds.items():
        concepts = PAIR.directions[model][torch.tensor([k == kind for k in PAIR.kinds])]
        share[kind] = float((closest(crosscoder, f"{model}/x", concepts).values > 0.8).float().mean())
    assert share["shared"] >= 0.75 and share["only_a"] + share["only_b"] >= 1.25, share


@pytest.mark.parametrize(
    ("world", "common"),
    [({"rotated": True}, "rotated"), ({"copy": True}, "shared")],
    ids=["rotated", "copy"],
)
def test_the_products_verdict_says_no_where_nothing_is_specific(world, common):
    """Trained for seconds: exclusives of a rotated pair are specific, what is in both is not; of a copy nothing is."""
    planted = DiffWorld(DiffWorldConfig(num_shared=12, num_weak=0, num_shifted=0, num_only_a=4, num_only_b=4, width=16,
                                        min_rate=0.03, max_rate=0.08, **world))  # fmt: skip
    crosscoder = train({"name": "acausal", "num_latents": 32}, (Site("a/x", 16), Site("b/x", 16)),
                       {"name": "batchtopk", "k": 2}, of_models(planted))  # fmt: skip
    adapters = {m: ModelChoice.of("synthetic", model=m, world=attrs.asdict(planted.config)).build() for m in "ab"}
    activations = ActivationConfig(held_out_share=0.0, masks=MaskConfig(max_norm_multiple=0.0))
    source = TokenSourceChoice.of("synthetic", seed=7).build()
    study = Study(crosscoder, adapters, source, num_tokens=20_000, activations=activations)
    (report,) = analyse(crosscoder, ["latent_scaling"], study=study)
    rights = {"shared": [], "only_a": [], "only_b": []}
    largest_F = crosscoder.decoder_norms().argmax(dim=1)
    for j, verdict in enumerate(report.data["verdict"]):
        model = "ab"[int(largest_F[j])]
        row = functional.normalize(crosscoder.decoder_rows(f"{model}/x").detach()[j], dim=0)
        cosine, concept = (planted.directions[model] @ row).max(dim=0)
        if cosine > 0.9 and report.data["firings"][j] >= 100:
            kind = planted.kinds[int(concept)]
            specific = kind.startswith("only") and "copy" not in world
            rights[kind].append(verdict == (f"specific to {kind[-1]}/x" if specific else common))
    assert len(rights["shared"]) >= 4 and sum(rights["shared"]) >= len(rights["shared"]) - 1, rights
    exclusive = rights["only_a"] + rights["only_b"]
    assert len(exclusive) >= 2 and sum(exclusive) >= len(exclusive) - 1, rights


def test_norms_of_what_is_perfectly_shared_are_shared_between_widths():
    """Widths 48 and 24: every concept is as strong in one model as in the other, and neither has a constant part."""
    world = DiffWorld(DiffWorldConfig(num_shared=20, num_weak=0, num_shifted=0, num_only_a=0, num_only_b=0, width=48,
                                      width_b=24, shared_cosine=1.0, min_rate=0.03, max_rate=0.08))  # fmt: skip

    x_BX = torch.cat([world.activations("a", IDS), world.activations("b", IDS) - world.affine[1]], 1)
    crosscoder = train({"name": "acausal", "num_latents": 32}, (Site("a/x", 48), Site("b/x", 24)),
                       {"name": "batchtopk", "k": 2}, x_BX)  # fmt: skip
    of_a, of_b = (closest(crosscoder, f"{m}/x", world.directions[m]) for m in "ab")
    found = (of_a.indices == of_b.indices) & (torch.minimum(of_a.values, of_b.values) > 0.9)
    classes = [classes_of(crosscoder)[j] for j in of_a.indices[found].tolist()]
    assert len(classes) >= 12 and classes.count("shared") >= 0.9 * len(classes), classes
    delta_F = delta_norm(width_free_norms(crosscoder))[of_a.indices[found]]
    assert abs(float(delta_F.median()) - 0.5) < 0.03, delta_F


def test_dedicated_latents_hold_what_belongs_to_their_model():
    architecture = {"name": "dedicated", "num_latents": 40, "exclusive_share": 0.2}
    crosscoder = on_pair(architecture, {"name": "batchtopk", "k": 2})
    held = {}
    for model in "ab":
        own = crosscoder.decoder_rows(f"{model}/x").detach()[crosscoder.wiring.latent_slices[model]]
        cosine_FC = functional.normalize(own, dim=1) @ PAIR.directions[model].T
        for kind in ("shared", f"only_{model}"):
            concepts = torch.tensor([k == kind for k in PAIR.kinds])
            held[model, kind] = float((cosine_FC.max(dim=0).values[concepts] > 0.8).float().mean())
    assert held["a", "only_a"] + held["b", "only_b"] >= 1.25, held
    assert held["a", "shared"] + held["b", "shared"] <= 0.4, held
