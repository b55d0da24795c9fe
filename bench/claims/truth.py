"""What a user is told, against what was planted (T1-T6): the verdicts of `latent_scaling` on worlds that can say no.

A latent's concept is the one that its largest decoder row matches best (cosine > 0.8), its kind that of the concept.
Counted are latents with 32 firings or more.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from common import Clock, Pool, Scale, Verdict, train
from diff import L1, TOPK, WIDE, acausal, activations, scaled, sites_of, verdict_counts

from crosscoders.testing import DiffWorld, DiffWorldConfig

NO_EXCLUSIVES = {"num_only_a": 0, "num_only_b": 0, "num_weak": 0, "num_shifted": 0, "num_shared": 100}
NULL = {"copy": True, "num_weak": 0, "num_shifted": 0, "num_only_a": 0, "num_only_b": 0}
WORLDS: dict[str, dict[str, Any]] = {
    "default": {},
    "rotated": {"rotated": True},
    "rotated, no exclusives": {"rotated": True, **NO_EXCLUSIVES},
    "cosines": {"min_shared_cosine": 0.0},
    "strengths": {"strength_range": 20.0},
    "zipf": {"zipf": 0.7, "max_rate": 0.2, "min_rate": 0.004},
    "hierarchy": {"hierarchy_share": 0.3, "max_rate": 0.1},
    "topics": {"num_topics": 8, "topic_share": 0.8, "document_effect": 0.5},
    "documents": {"document_effect": 1.5},
    "noise": {"noise_anisotropy": 20.0, "mean_norm": 3.0, "noise": 0.03},
    "weak": {"num_shared": 40, "num_weak": 20, "num_weak_b": 20},
    "three models": {"num_models": 3, "num_only_c": 8, "num_not_c": 8, "num_shared": 50},
    "null": NULL,
    "null+noise": {**NULL, "copy_noise": 0.01},
}
WITHOUT = ("rotated, no exclusives", "null", "null+noise")


def run(seed: int, scale: Scale) -> dict[str, Any]:
    """Verdict counts by kind of concept, for every world and loss."""
    clock, found = Clock(seed), {}
    for name, config in WORLDS.items():
        world = DiffWorld(DiffWorldConfig(seed=seed, **config))
        data = Pool(partial(activations, world), scale.pool)
        for loss_name, loss in (("topk", TOPK), ("l1", L1)):
            crosscoder = train(acausal(WIDE), sites_of(world), loss, data, samples=scale.samples // 2, seed=seed)
            data_of_report = scaled(crosscoder, world, scale)
            counts = verdict_counts(crosscoder, world, data_of_report.verdict, torch.tensor(data_of_report.firings))
            found[f"{name} {loss_name}"] = clock.show(f"{name} {loss_name}", counts)
    return found


def verdicts(found: dict[str, Any]) -> list[Verdict]:
    """Thresholds, stated before any run, against one seed's numbers."""
    rows = []
    for loss in ("topk", "l1"):
        with_exclusives = [found[f"{name} {loss}"] for name in WORLDS if name not in WITHOUT]
        without = [found[f"{name} {loss}"] for name in WITHOUT]
        recall = min(_rate(counts, _is_true, {kind for kind in counts if kind.startswith("only")})
                     for counts in with_exclusives)  # fmt: skip
        precision = min(_precision(counts) for counts in with_exclusives)
        shared = max(_rate(counts, _is_specific, {"shared"}) for counts in [*with_exclusives, *without])
        false = sum(n for counts in without for row in counts.values() for v, n in row.items() if _is_specific("", v))
        turned = min(_rate(found[f"{name} {loss}"], lambda _, v: v == "rotated", {"shared"})
                     for name in ("rotated", "rotated, no exclusives"))  # fmt: skip
        rows += [
            Verdict("T1", f"true exclusives called specific, worst world, {loss}", ">= 0.90", recall, recall >= 0.9),
            Verdict("T2", f"called specific that are, worst world, {loss}", ">= 0.90", precision, precision >= 0.9),
            Verdict("T3", f"shared ones called specific, worst world, {loss}", "<= 0.02", shared, shared <= 0.02),
            Verdict("T4", f"called specific where nothing is, {loss}", "== 0", float(false), false == 0),
            Verdict("T5", f"rotated ones called rotated, worse world, {loss}", ">= 0.80", turned, turned >= 0.8),
        ]
    return rows


def _is_specific(_: str, verdict: str) -> bool:
    return verdict.startswith("specific")


def _is_true(kind: str, verdict: str) -> bool:
    return kind.startswith("only") and verdict == f"specific to {kind[-1]}/x"


def _rate(counts: dict[str, Any], is_so: Any, kinds: set[str]) -> float:
    total = sum(sum(counts.get(kind, {}).values()) for kind in kinds)
    return sum(n for kind in kinds for v, n in counts.get(kind, {}).items() if is_so(kind, v)) / max(1, total)


def _precision(counts: dict[str, Any]) -> float:
    called = [(kind, v, n) for kind, row in counts.items() for v, n in row.items() if _is_specific(kind, v)]
    return sum(n for kind, v, n in called if _is_true(kind, v)) / max(1, sum(n for *_, n in called))
