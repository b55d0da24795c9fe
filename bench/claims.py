"""What must come out of planted diff worlds, stated before running and recorded with every seed.

    python bench/claims.py                 # all predictions, three seeds, about ten minutes on two cores
    python bench/claims.py --quick         # one seed, fewer samples

Each prediction has a threshold; the table says value and verdict for every seed, and `bench/results/claims.json` keeps
them. A latent is *B-only by norms* when Δnorm > 0.9; it is *spurious* when the concept its decoder row matches best
(cosine > 0.8) is not B-only, or when it matches none. Exact predictions (E1-E3, E5, E7, E9, E10) are unit tests.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import torch
from torch import Tensor

from crosscoders import (
    Crosscoder,
    LatentGroup,
    LossChoice,
    Site,
    Study,
    TokenIds,
    TrainingConfig,
    Wiring,
    evaluate,
    fit,
)
from crosscoders.activations import ActivationConfig, MaskConfig
from crosscoders.testing import DiffWorld, DiffWorldConfig
from crosscoders_adapters.synthetic import SyntheticAdapter, SyntheticConfig
from crosscoders_plugins.analyses.latent_scaling import LatentScaling, LatentScalingConfig
from crosscoders_plugins.analyses.norm_classes import delta_norm

RESULTS = Path(__file__).parent / "results" / "claims.json"
NUM_LATENTS = 192
LOSSES = {"batchtopk": {"name": "batchtopk", "k": 3}, "l1": {"name": "l1", "weight": 2.0}}
SITES = (Site("a/x", 48), Site("b/x", 48))
EVALUATION_IDS = torch.arange(10**9, 10**9 + 100_000)


class Ids:
    """Token source: the evaluation samples, a hundred at a time."""

    def documents(self, *, skip: int = 0):
        for start in range(skip * 100, len(EVALUATION_IDS), 100):
            yield TokenIds(tuple(EVALUATION_IDS[start : start + 100].tolist()))


def activations(world: DiffWorld, ids: Tensor) -> Tensor:
    return torch.cat([torch.cat([world.activations(m, part) for m in "ab"], 1) for part in ids.split(50_000)])


def trained(world: DiffWorld, data: Tensor, loss: dict, *, samples: int, seed: int) -> Crosscoder:
    names = tuple(site.name for site in SITES)
    crosscoder = Crosscoder(Wiring(sites=SITES, groups=(LatentGroup("all", NUM_LATENTS, names, names),)))
    config = TrainingConfig(num_tokens=samples, batch_size=2048, lr=3e-3, seed=seed, dead_after_share=0.02)

    def batches():
        generator = torch.Generator().manual_seed(seed)
        while True:
            yield from data[torch.randperm(len(data), generator=generator)].split(2048)

    options = {key: value for key, value in loss.items() if key != "name"}
    made = LossChoice.of(loss["name"], **options).build()
    for _ in fit(crosscoder, made, (b for b in batches() if len(b) == 2048), config, calibration_BX=data[:50_000]):
        pass
    return crosscoder


def best_match(crosscoder: Crosscoder, world: DiffWorld, model: str) -> tuple[Tensor, Tensor]:
    """For each latent the concept whose direction in `model` its decoder row is closest to, and the cosine."""
    rows_FD = torch.nn.functional.normalize(crosscoder.decoder_rows(f"{model}/x").detach(), dim=1)
    cosine_FC = rows_FD @ world.directions[model].T
    best = cosine_FC.max(dim=1)
    return best.indices, best.values


def study_of(crosscoder: Crosscoder, world: DiffWorld) -> Study:
    adapters = {m: SyntheticAdapter(SyntheticConfig(model=m, world=world.config)) for m in "ab"}
    masks = MaskConfig(max_norm_multiple=0.0)
    config = ActivationConfig(context_length=100, held_out_share=0.0, masks=masks, rows_per_forward=200)
    return Study(crosscoder, adapters, Ids(), activations=config, num_tokens=len(EVALUATION_IDS))


def measure(crosscoder: Crosscoder, world: DiffWorld) -> dict:
    """Everything the predictions are about, of one trained crosscoder."""
    x_BX = activations(world, EVALUATION_IDS)
    metrics = evaluate(crosscoder, x_BX.split(20_000))
    alive = crosscoder.encode(x_BX).fired_F
    delta = delta_norm(crosscoder.decoder_norms().detach())
    b_only = alive & (delta > 0.9)
    concept, cosine = best_match(crosscoder, world, "b")
    kinds = world.kinds
    true = torch.tensor(
        [c > 0.8 and kinds[i] == "only_b" for i, c in zip(concept.tolist(), cosine.tolist(), strict=True)]
    )
    spurious = b_only & ~true
    recovered = {"shared": 0, "only_a": 0, "only_b": 0}
    counts = {kind: kinds.count(kind) for kind in recovered}
    for kind in recovered:
        model = "a" if kind == "only_a" else "b"
        found_concept, found_cosine = best_match(crosscoder, world, model)
        hit = set(found_concept[alive & (found_cosine > 0.8)].tolist())
        recovered[kind] = sum(1 for i, k in enumerate(kinds) if k == kind and i in hit)
    result = {
        "explained_variance": sum(metrics.explained_variance.values()) / 2,
        "l0": metrics.l0,
        "alive": int(alive.sum()),
        "a_only_by_norms": int((alive & (delta < 0.1)).sum()),
        "b_only_by_norms": int(b_only.sum()),
        "spurious": int(spurious.sum()),
        "recovered": {kind: recovered[kind] / counts[kind] if counts[kind] else None for kind in recovered},
    }
    if int(b_only.sum()):
        report = LatentScaling(LatentScalingConfig(reference="b/x")).run(study_of(crosscoder, world))
        against = report.data["against"]["a/x"]
        nu_error, nu_rebuilt = torch.tensor(against["nu_error"]), torch.tensor(against["nu_reconstruction"])
        specific = (nu_error < 0.2) & (nu_rebuilt < 0.5)
        result["spurious_after_scaling"] = int((spurious & specific).sum())
        result["true_by_norms"] = int((b_only & true).sum())
        result["true_after_scaling"] = int((b_only & true & specific).sum())
        result["spurious_kinds"] = sorted(kinds[i] if c > 0.8 else "none" for i, c in zip(
            concept[spurious].tolist(), cosine[spurious].tolist(), strict=True))  # fmt: skip
    return result


def predictions(runs: dict[str, dict]) -> list[dict]:
    """Thresholds and verdicts for one seed."""
    topk, l1 = runs["batchtopk"], runs["l1"]
    exclusive = (topk["recovered"]["only_a"] + topk["recovered"]["only_b"]) / 2
    rate = l1["spurious"] / max(1, l1["b_only_by_norms"])
    kept = l1["true_after_scaling"] / max(1, l1["true_by_norms"])
    removed = 1 - l1["spurious_after_scaling"] / max(1, l1["spurious"])
    nulls = sum(runs[name][side] for name in ("null batchtopk", "null l1", "null+noise batchtopk", "null+noise l1")
                for side in ("a_only_by_norms", "b_only_by_norms"))  # fmt: skip
    shared = topk["recovered"]["shared"]
    rows = [
        ("D1", "BatchTopK recovers shared concepts", ">= 0.90", shared, shared >= 0.9),
        ("D1", "BatchTopK recovers exclusive concepts", ">= 0.75", exclusive, exclusive >= 0.75),
        ("D2", "share of L1's B-only latents that are spurious", ">= 0.40", rate, rate >= 0.4),
        ("D3", "spurious latents, BatchTopK over L1", "<= 0.50", topk["spurious"] / max(1, l1["spurious"]),
         topk["spurious"] <= l1["spurious"] / 2),
        ("D3", "explained variance, BatchTopK minus L1", ">= -0.005",
         topk["explained_variance"] - l1["explained_variance"],
         topk["explained_variance"] >= l1["explained_variance"] - 0.005),
        ("D4", "share of L1's spurious latents that latent scaling removes", ">= 0.80", removed, removed >= 0.8),
        ("D4", "share of L1's true latents that latent scaling keeps", ">= 0.90", kept, kept >= 0.9),
        ("D6", "exclusive latents of a model against its copy (exact, and with noise)", "== 0", nulls, nulls == 0),
    ]  # fmt: skip
    return [{"id": i, "prediction": p, "threshold": t, "value": v, "holds": bool(h)} for i, p, t, v, h in rows]


def run_seed(seed: int, *, samples: int, pool: int) -> dict[str, dict]:
    runs = {}
    worlds = {
        "": DiffWorldConfig(seed=seed),
        "null ": DiffWorldConfig(seed=seed, copy=True, num_weak=0, num_shifted=0),
        "null+noise ": DiffWorldConfig(seed=seed, copy=True, copy_noise=0.01, num_weak=0, num_shifted=0),
    }
    for prefix, config in worlds.items():
        world = DiffWorld(config)
        data = activations(world, torch.arange(pool))
        for name, loss in LOSSES.items():
            started = time.monotonic()
            budget = samples if not prefix else samples // 2
            runs[prefix + name] = measure(trained(world, data, loss, samples=budget, seed=seed), world)
            found = {k: v for k, v in runs[prefix + name].items() if k != "spurious_kinds"}
            print(f"seed {seed} {prefix + name:20s} {time.monotonic() - started:4.0f} s  {found}", flush=True)
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    samples, pool = (600_000, 200_000) if options.quick else (2_500_000, 800_000)
    seeds = [0] if options.quick else list(range(options.seeds))
    record: dict = {"samples": samples, "made_with": {"torch": torch.__version__, "python": platform.python_version()}}
    record["seeds"] = {seed: run_seed(seed, samples=samples, pool=pool) for seed in seeds}
    record["predictions"] = {seed: predictions(record["seeds"][seed]) for seed in seeds}
    for seed in seeds:
        for row in record["predictions"][seed]:
            verdict = "holds" if row["holds"] else "FAILS"
            print(
                f"seed {seed}  {row['id']}  {verdict}  {row['value']:.3f} {row['threshold']:>9s}  {row['prediction']}"
            )
    if not options.quick:
        options.out.parent.mkdir(exist_ok=True)
        options.out.write_text(json.dumps(record, indent=1) + "\n")
        options.out.with_suffix(".md").write_text(table_of(record["predictions"]))


def table_of(predictions: dict[int, list[dict]]) -> str:
    """The record as a Markdown table, one row for each prediction."""
    lines = ["| | prediction | threshold | value per seed | verdict |", "|---|---|---|---|---|"]
    for rows in zip(*predictions.values(), strict=True):
        first = rows[0]
        values = ", ".join(f"{row['value']:.3f}" for row in rows)
        held = sum(row["holds"] for row in rows)
        verdict = "holds" if held == len(rows) else f"fails on {len(rows) - held} of {len(rows)} seeds"
        lines.append(f"| {first['id']} | {first['prediction']} | {first['threshold']} | {values} | {verdict} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
