"""Predictions about two models whose concepts differ in known ways (D1-D14).

A latent is *B-only by norms* when Δnorm > 0.9; it is *spurious* when the concept its decoder row matches best (cosine >
0.8) is not B-only, or when it matches none. A concept is *recovered* when some latent that fires matches it so.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from attrs import frozen
from common import FIRST_HELD_OUT, Clock, Pool, Scale, Verdict, spearman, train
from torch import Tensor
from torch.nn import functional

from crosscoders import Crosscoder, Site, Study, TokenIds, analyse, evaluate
from crosscoders.activations import ActivationConfig, MaskConfig
from crosscoders.testing import DiffWorld, DiffWorldConfig
from crosscoders_adapters.synthetic import SyntheticAdapter, SyntheticConfig
from crosscoders_plugins.analyses.norm_classes import delta_norm

WIDE, NARROW = 192, 64
TOPK = {"name": "batchtopk", "k": 3}
L1 = {"name": "l1", "weight": 2.0}
NULL = {"copy": True, "num_weak": 0, "num_shifted": 0}
MATCH, LIVE = 0.8, 32
EXCLUSIVE = {"a/x": "only_a", "b/x": "only_b"}


class Ids:
    """Token source: held-out samples, a hundred at a time."""

    def __init__(self, count: int) -> None:
        self.ids = torch.arange(FIRST_HELD_OUT, FIRST_HELD_OUT + count)

    def documents(self, *, skip: int = 0):
        for start in range(skip * 100, len(self.ids), 100):
            yield TokenIds(tuple(self.ids[start : start + 100].tolist()))


def sites_of(world: DiffWorld) -> tuple[Site, ...]:
    return tuple(Site(f"{model}/x", world.config.width_of(model)) for model in world.config.models)


def activations(world: DiffWorld, ids: Tensor) -> Tensor:
    return torch.cat(
        [torch.cat([world.activations(m, part) for m in world.config.models], 1) for part in ids.split(50_000)]
    )


def acausal(num_latents: int) -> dict[str, Any]:
    return {"name": "acausal", "num_latents": num_latents}


def dedicated(num_latents: int, share: float) -> dict[str, Any]:
    return {"name": "dedicated", "num_latents": num_latents, "exclusive_share": share}


def study_of(crosscoder: Crosscoder, world: DiffWorld, scale: Scale) -> Study:
    adapters = {m: SyntheticAdapter(SyntheticConfig(model=m, world=world.config)) for m in world.config.models}
    masks = MaskConfig(max_norm_multiple=0.0)
    config = ActivationConfig(context_length=100, held_out_share=0.0, masks=masks, rows_per_forward=200)
    return Study(crosscoder, adapters, Ids(scale.held_out), activations=config, num_tokens=scale.held_out)


def match(crosscoder: Crosscoder, world: DiffWorld, site: str) -> tuple[Tensor, Tensor]:
    """For each latent the concept that its decoder row at `site` is closest to, and the cosine."""
    rows_FD = functional.normalize(crosscoder.decoder_rows(site).detach(), dim=1)
    best = (rows_FD @ world.directions[site[0]].T).max(dim=1)
    return best.indices, best.values


def recovered(crosscoder: Crosscoder, world: DiffWorld, site: str, kind: str, alive: Tensor) -> float | None:
    """Share of the concepts of `kind` that some latent in `alive` matches."""
    concepts = {i for i, k in enumerate(world.kinds) if k == kind}
    concept_F, cosine_F = match(crosscoder, world, site)
    found = set(concept_F[alive & (cosine_F > MATCH)].tolist())
    return len(concepts & found) / len(concepts) if concepts else None


@frozen(eq=False)
class Told:
    """What a user is told of every latent: ν^ε and ν^r at A against B, firings, and the verdict."""

    error_F: Tensor
    rebuilt_F: Tensor
    firings: list[int]
    verdict: list[str]


def scaled(crosscoder: Crosscoder, world: DiffWorld, scale: Scale) -> Told:
    """The report of `latent_scaling`, asked as a user asks for it."""
    (report,) = analyse(crosscoder, [{"name": "latent_scaling", "reference": "b/x"}],
                        study=study_of(crosscoder, world, scale))  # fmt: skip
    against = report.data["against"]["a/x"]
    return Told(torch.tensor(against["nu_error"]), torch.tensor(against["nu_reconstruction"]), report.data["firings"],
                report.data["verdict"])  # fmt: skip


def measure(crosscoder: Crosscoder, world: DiffWorld, scale: Scale) -> dict[str, Any]:
    """Everything the predictions are about, of one trained crosscoder."""
    x_BX = activations(world, torch.arange(FIRST_HELD_OUT, FIRST_HELD_OUT + scale.held_out))
    metrics = evaluate(crosscoder, x_BX.split(20_000))
    latents = crosscoder.encode(x_BX)
    firings_F = torch.bincount(latents.latent_N, minlength=crosscoder.num_latents)
    alive = firings_F > 0
    kinds = world.kinds
    found: dict[str, Any] = {
        "explained_variance": sum(metrics.explained_variance.values()) / 2,
        "l0": metrics.l0,
        "alive": int(alive.sum()),
        "shared_a": recovered(crosscoder, world, "a/x", "shared", alive),
        "shared_b": recovered(crosscoder, world, "b/x", "shared", alive),
        "only_a": recovered(crosscoder, world, "a/x", "only_a", alive),
        "only_b": recovered(crosscoder, world, "b/x", "only_b", alive),
    }
    delta_F = delta_norm(crosscoder.decoder_norms().detach())
    only = {"a/x": alive & (delta_F < 0.1), "b/x": alive & (delta_F > 0.9)}
    found["a_only_by_norms"], found["b_only_by_norms"] = (int(mask.sum()) for mask in only.values())
    shared_rate = firings_F[alive & (delta_F > 0.4) & (delta_F < 0.6)].double()
    exclusive_rate = firings_F[only["a/x"] | only["b/x"]].double()
    found["density_ratio"] = float(exclusive_rate.median() / shared_rate.median()) if len(exclusive_rate) else None
    if world.config.width_b:
        return found
    concept, cosine = match(crosscoder, world, "b/x")
    label = [kinds[i] if c > MATCH else "none" for i, c in zip(concept.tolist(), cosine.tolist(), strict=True)]
    true_F = torch.tensor([name == "only_b" for name in label])
    spurious = only["b/x"] & ~true_F
    told = scaled(crosscoder, world, scale)
    error_F, rebuilt_F, verdict = told.error_F, told.rebuilt_F, told.verdict
    specific = {site: torch.tensor([v == f"specific to {site}" for v in verdict]) for site in only}
    found["verdicts"] = verdict_counts(crosscoder, world, verdict, firings_F)
    found |= {
        "spurious": int(spurious.sum()),
        "spurious_after_scaling": int((spurious & specific["b/x"]).sum()),
        "true_by_norms": int((only["b/x"] & true_F).sum()),
        "true_after_scaling": int((only["b/x"] & true_F & specific["b/x"]).sum()),
        "exclusive_after_scaling": sum(int((only[site] & specific[site] & (firings_F >= LIVE)).sum()) for site in only),
        "spurious_detail": [
            {
                "kind": label[i],
                "concept": int(concept[i]),
                "nu_error": float(error_F[i]),
                "nu_rebuilt": float(rebuilt_F[i]),
            }
            for i in spurious.nonzero().squeeze(1).tolist()
        ],
        # B-only concepts that some latent shows to be so: by the bin of its norms, or by latent scaling.
        "recall_by_bins": _recall(world, concept, true_F & only["b/x"]),
        "recall_by_scaling": _recall(world, concept, true_F & alive & specific["b/x"]),
        "patching": patching(crosscoder, world, x_BX[:20_000], delta_F, error_F, rebuilt_F, alive),
    }
    return found


def verdict_counts(crosscoder: Crosscoder, world: DiffWorld, verdict: list[str], firings_F: Tensor) -> dict[str, Any]:
    """How often each verdict was given to latents of each kind of concept; a latent's concept is that of its largest
    row."""
    largest_F = crosscoder.decoder_norms().detach().argmax(dim=1)
    matches = [match(crosscoder, world, f"{m}/x") for m in world.config.models]
    counts: dict[str, dict[str, int]] = {}
    for j in (firings_F >= LIVE).nonzero().squeeze(1).tolist():
        concept_F, cosine_F = matches[int(largest_F[j])]
        kind = world.kinds[int(concept_F[j])] if cosine_F[j] > MATCH else "none"
        row = counts.setdefault(kind, {})
        row[verdict[j]] = row.get(verdict[j], 0) + 1
    return counts


def _recall(world: DiffWorld, concept_F: Tensor, hit_F: Tensor) -> float:
    return len(set(concept_F[hit_F].tolist())) / max(1, world.kinds.count("only_b"))


@torch.no_grad()
def patching(
    crosscoder: Crosscoder,
    world: DiffWorld,
    x_BX: Tensor,
    delta_F: Tensor,
    error_F: Tensor,
    rebuilt_F: Tensor,
    alive: Tensor,
) -> dict[str, float]:
    """KL to B's readout after moving A's activations by the half of the latents most, or least, specific to B."""
    generator = torch.Generator().manual_seed(world.config.seed)
    readout_DV = torch.randn(world.config.width, 32, generator=generator)
    a_BD, b_BD = x_BX.split(world.config.width, dim=1)
    target = (b_BD @ readout_DV).log_softmax(1)
    f_BF = crosscoder.encode(x_BX).dense()
    scale = crosscoder.normaliser.scale_S
    rows = [crosscoder.decoder_rows(site) / scale[i] for i, site in enumerate(("a/x", "b/x"))]
    found = {}
    not_specific = torch.maximum(error_F / 0.2, rebuilt_F / 0.5).nan_to_num(nan=1e9)
    for name, order in (("delta_norm", -delta_F), ("scaling", not_specific)):
        ranked = order.masked_fill(~alive, 1e12).argsort()[: int(alive.sum())]
        for half, chosen in (("top", ranked[: len(ranked) // 2]), ("bottom", ranked[len(ranked) // 2 :])):
            patched = a_BD + f_BF[:, chosen] @ (rows[1] - rows[0])[chosen]
            logits = (patched @ readout_DV).log_softmax(1)
            found[f"{name}_{half}"] = float((target.exp() * (target - logits)).sum(1).mean())
    return found


def run(seed: int, scale: Scale) -> dict[str, Any]:
    """All runs of one seed."""
    clock, found = Clock(seed), {}

    def once(name: str, config: dict[str, Any], architecture: dict[str, Any], loss: dict[str, Any], share: float = 1.0):
        if config not in worlds:
            made = DiffWorld(DiffWorldConfig(seed=seed, **config))
            worlds.append(config)
            cached["world"], cached["data"] = made, Pool(partial(activations, made), scale.pool)
        world, data = cached["world"], cached["data"]
        crosscoder = train(architecture, sites_of(world), loss, data, samples=int(share * scale.samples), seed=seed)
        found[name] = clock.show(name, measure(crosscoder, world, scale))
        return crosscoder, world

    worlds: list[dict[str, Any]] = []
    cached: dict[str, Any] = {}
    once("topk", {}, acausal(WIDE), TOPK)
    once("l1", {}, acausal(WIDE), L1)
    once("dedicated", {}, dedicated(WIDE, 0.08), TOPK)
    once("narrow topk", {}, acausal(NARROW), TOPK)
    once("narrow dedicated", {}, dedicated(NARROW, 0.125), TOPK)
    found["random"] = random_dictionary(cached["world"], seed)
    found["difference"] = clock.show(
        "difference SAE", difference_sae(cached["world"], cached["data"].data, scale, seed)
    )
    for name, noise in (("null", {}), ("null+noise", {"copy_noise": 0.01})):
        for loss_name, architecture, loss in (
            ("topk", acausal(WIDE), TOPK),
            ("l1", acausal(WIDE), L1),
            ("dedicated", dedicated(WIDE, 0.08), TOPK),
        ):
            once(f"{name} {loss_name}", {**NULL, **noise}, architecture, loss, 0.5)
    once("8:24", {"num_only_a": 8, "num_only_b": 24}, acausal(WIDE), TOPK)
    crosscoder, world = once("rotation", {"min_shared_cosine": -0.3, "shared_cosine": 1.0}, acausal(WIDE), TOPK)
    found["rotation"]["spearman"] = rotation(crosscoder, world)
    for loss_name, loss in (("topk", TOPK), ("l1", L1)):
        once(f"rare {loss_name}", {"exclusive_rate": 0.003}, acausal(WIDE), loss)
    once("affine", {"width_b": 64}, acausal(WIDE), TOPK)
    once("dose", {"num_weak": 40, "num_shared": 36, "weak_strength": (0.1, 0.8)}, acausal(WIDE), L1)
    found["dose"]["shrunk"] = dose(found["dose"], cached["world"])
    found["density"] = density(seed, scale, clock)
    return found


def random_dictionary(world: DiffWorld, seed: int) -> dict[str, float]:
    """What matches by chance: the share of concepts within reach of as many random directions."""
    rows = functional.normalize(
        torch.randn(WIDE, world.config.width, generator=torch.Generator().manual_seed(seed)), dim=1
    )
    best = (rows @ world.directions["b"].T).max(dim=0).values
    return {"recovered": float((best > MATCH).double().mean()), "mean_max_cosine": float(best.mean())}


def difference_sae(world: DiffWorld, data: Tensor, scale: Scale, seed: int) -> dict[str, float]:
    """The strongest simple baseline: a sparse autoencoder on b − a."""
    width = world.config.width
    sae = train(
        {"name": "sae", "num_latents": WIDE},
        (Site("diff/x", width),),
        TOPK,
        data[:, width:] - data[:, :width],
        samples=scale.samples,
        seed=seed,
    )
    rows = functional.normalize(sae.decoder_rows("diff/x").detach(), dim=1)
    found = {}
    for kind, sign, model in (("only_b", 1, "b"), ("only_a", -1, "a")):
        concepts = world.directions[model][torch.tensor([k == kind for k in world.kinds])]
        found[kind] = float(((sign * rows @ concepts.T).max(dim=0).values > MATCH).double().mean())
    return found


def rotation(crosscoder: Crosscoder, world: DiffWorld) -> float:
    """Rank correlation of the planted cosines with those of the latents that match the shared concepts in A."""
    concept, cosine = match(crosscoder, world, "a/x")
    a, b = (functional.normalize(crosscoder.decoder_rows(site).detach(), dim=1) for site in ("a/x", "b/x"))
    shared = torch.tensor([world.kinds[i] == "shared" for i in concept.tolist()]) & (cosine > 0.9)
    delta_F = delta_norm(crosscoder.decoder_norms().detach())
    both = shared & (delta_F > 0.3) & (delta_F < 0.7)
    return spearman((a * b).sum(1)[both], world.cosine_C[concept[both]])


def dose(found: dict[str, Any], world: DiffWorld) -> list[dict[str, float]]:
    """Of the concepts weak in A, by strength: the share that L1 calls B-only and that ν^ε shows to be shrunk."""
    shrunk = {d["concept"] for d in found["spurious_detail"] if d["kind"] == "weak_in_a" and d["nu_error"] >= 0.2}
    called = {d["concept"] for d in found["spurious_detail"] if d["kind"] == "weak_in_a"}
    rows = []
    for low in (0.1, 0.275, 0.45, 0.625):
        inside = [
            i
            for i, k in enumerate(world.kinds)
            if k == "weak_in_a" and low <= float(world.strength_in_a_C[i]) < low + 0.175
        ]
        share = [len(members & set(inside)) / max(1, len(inside)) for members in (called, shrunk)]
        rows.append({"from": low, "concepts": len(inside), "called_b_only": share[0], "of_them_shrunk": share[1]})
    return rows


def density(seed: int, scale: Scale, clock: Clock) -> dict[str, Any]:
    """Mishra-Sharma et al.'s toy at a quarter of its size: 113 concepts in 1,024 latents, 175 in 256."""
    found = {}
    for name, latents, counts in (("wide", 1024, (75, 19)), ("narrow", 256, (125, 25))):
        config = DiffWorldConfig(
            width=64,
            num_shared=counts[0],
            num_weak=0,
            num_shifted=0,
            num_only_a=counts[1],
            num_only_b=counts[1],
            seed=seed,
        )
        world = DiffWorld(config)
        data = Pool(partial(activations, world), scale.pool // 2)
        losses = {"l1": (acausal(latents), L1)}
        if name == "narrow":
            losses["dsf"] = (
                {"name": "designated_shared", "num_latents": latents, "designated_share": 0.3},
                {"name": "dsf", "weight": 2.0, "designated_share": 0.15},
            )
        for loss_name, (architecture, loss) in losses.items():
            crosscoder = train(architecture, sites_of(world), loss, data, samples=scale.samples // 2, seed=seed)
            measured = measure(crosscoder, world, scale)
            key = f"{name} {loss_name}"
            found[key] = clock.show(f"density {key}", {"ratio": measured["density_ratio"], "l0": measured["l0"]})
    return found


def stability(scale: Scale, seeds: int = 5) -> dict[str, Any]:
    """One world, five trainings: how often each concept is recovered, and how much two runs have in common (D14)."""
    world = DiffWorld(DiffWorldConfig(seed=0))
    data, clock = Pool(partial(activations, world), scale.pool), Clock(0)
    runs = [
        train(acausal(WIDE), sites_of(world), TOPK, data, samples=scale.samples, seed=100 + s) for s in range(seeds)
    ]
    x_BX = activations(world, torch.arange(FIRST_HELD_OUT, FIRST_HELD_OUT + scale.held_out))
    times = torch.zeros(len(world.kinds), dtype=torch.int64)
    alive_rows = []
    for crosscoder in runs:
        alive = crosscoder.encode(x_BX).fired_F
        hits: set[int] = set()
        for site in ("a/x", "b/x"):
            concept, cosine = match(crosscoder, world, site)
            hits |= set(concept[alive & (cosine > MATCH)].tolist())
        times[list(hits)] += 1
        alive_rows.append(functional.normalize(crosscoder.decoder_weight(0).detach()[alive], dim=1))
    overlap = [
        float(((one @ other.T).max(dim=1).values > 0.9).double().mean())
        for i, one in enumerate(alive_rows)
        for j, other in enumerate(alive_rows)
        if i != j
    ]
    order = world.rates_C.argsort()
    quarter = len(order) // 4
    found = {
        "strong_in_all_runs": float((times[order[-quarter:]] == seeds).double().mean()),
        "weak_in_all_runs": float((times[order[:quarter]] == seeds).double().mean()),
        "matched_between_runs": sum(overlap) / len(overlap),
        "times_recovered": times.tolist(),
    }
    return clock.show("stability", found)


def verdicts(found: dict[str, Any]) -> list[Verdict]:
    """Thresholds, stated before any run, against one seed's numbers."""
    topk, l1, ded = found["topk"], found["l1"], found["dedicated"]
    exclusive = (topk["only_a"] + topk["only_b"]) / 2
    rate = l1["spurious"] / max(1, l1["b_only_by_norms"])
    kept = l1["true_after_scaling"] / max(1, l1["true_by_norms"])
    removed = 1 - l1["spurious_after_scaling"] / max(1, l1["spurious"])
    weak = [d["nu_error"] >= 0.2 for d in l1["spurious_detail"] if d["kind"] == "weak_in_a"]
    shifted = [d["nu_rebuilt"] >= 0.5 for d in l1["spurious_detail"] if d["kind"] == "shifted"]
    nulls = sum(
        found[f"{null} {name}"][side]
        for null in ("null", "null+noise")
        for name in ("topk", "l1")
        for side in ("a_only_by_norms", "b_only_by_norms")
    )
    junk = sum(found[f"{null} dedicated"]["exclusive_after_scaling"] for null in ("null", "null+noise"))
    forced = sum(
        found[f"{null} dedicated"][side]
        for null in ("null", "null+noise")
        for side in ("a_only_by_norms", "b_only_by_norms")
    )
    narrow = {name: (found[name]["only_a"] + found[name]["only_b"]) / 2 for name in ("narrow topk", "narrow dedicated")}
    counts = found["8:24"]["b_only_by_norms"] / max(1, found["8:24"]["a_only_by_norms"])
    affine = (found["affine"]["shared_a"] + found["affine"]["shared_b"]) / 2
    same = (topk["shared_a"] + topk["shared_b"]) / 2
    density, patch, patch_l1 = found["density"], topk["patching"], l1["patching"]
    shrunk = [row["of_them_shrunk"] for row in found["dose"]["shrunk"]]

    def v(key: str, prediction: str, threshold: str, value: float, holds: bool | None) -> Verdict:
        return Verdict(key, prediction, threshold, float(value), None if holds is None else bool(holds))

    return [
        v("D1", "BatchTopK recovers shared concepts", ">= 0.90", topk["shared_b"], topk["shared_b"] >= 0.9),
        v("D1", "BatchTopK recovers exclusive concepts", ">= 0.75", exclusive, exclusive >= 0.75),
        v(
            "D1",
            "a random dictionary of the same size recovers nothing",
            "<= 0.05",
            found["random"]["recovered"],
            found["random"]["recovered"] <= 0.05,
        ),
        v("D2", "share of L1's B-only latents that are spurious", ">= 0.40", rate, rate >= 0.4),
        v(
            "D3",
            "spurious latents, BatchTopK over L1",
            "<= 0.50",
            topk["spurious"] / max(1, l1["spurious"]),
            topk["spurious"] <= l1["spurious"] / 2,
        ),
        v(
            "D3",
            "explained variance, BatchTopK minus L1",
            ">= -0.005",
            topk["explained_variance"] - l1["explained_variance"],
            topk["explained_variance"] >= l1["explained_variance"] - 0.005,
        ),
        v("D4", "share of L1's spurious latents that latent scaling removes", ">= 0.80", removed, removed >= 0.8),
        v("D4", "share of L1's true latents that latent scaling keeps", ">= 0.90", kept, kept >= 0.9),
        v("D5", "false ones weak in A that ν^ε catches", ">= 0.80", _share(weak), _share(weak) >= 0.8),
        v("D5", "false ones shifted in context that ν^r catches", ">= 0.80", _share(shifted), _share(shifted) >= 0.8),
        v(
            "D5",
            "shrunk share, weakest quarter of strengths minus strongest",
            "> 0",
            shrunk[0] - shrunk[-1],
            shrunk[0] > shrunk[-1],
        ),
        v("D6", "exclusive latents of a model against its copy, L1 and BatchTopK", "== 0", nulls, nulls == 0),
        v("D6", f"forced exclusives of DFC there ({forced}) that latent scaling lets pass", "== 0", junk, junk == 0),
        v(
            "D7",
            "recall of exclusive concepts in 64 latents, DFC minus standard",
            ">= 0.15 in the mean, never < 0",
            narrow["narrow dedicated"] - narrow["narrow topk"],
            narrow["narrow dedicated"] >= narrow["narrow topk"],
        ),
        v(
            "D7",
            "spurious share of DFC's B-only latents in 64 latents",
            "report",
            found["narrow dedicated"]["spurious"] / max(1, found["narrow dedicated"]["b_only_by_norms"]),
            None,
        ),
        v(
            "D7",
            "spurious share of DFC's B-only latents in 192 latents",
            "report",
            ded["spurious"] / max(1, ded["b_only_by_norms"]),
            None,
        ),
        v(
            "D8",
            "firing rate exclusive over shared, 113 concepts in 1,024 latents, L1",
            "report (0.67-1.5)",
            _number(density["wide l1"]["ratio"]),
            None,
        ),
        v(
            "D8",
            "the same, 175 concepts in 256 latents, L1",
            "report (> 1)",
            _number(density["narrow l1"]["ratio"]),
            None,
        ),
        v(
            "D8",
            "the same with designated shared latents",
            "report (nearer 1)",
            _number(density["narrow dsf"]["ratio"]),
            None,
        ),
        v("D9", "B-only over A-only latents where 24 and 8 were planted", "1.5-6", counts, 1.5 <= counts <= 6),
        v(
            "D10",
            "rank correlation of planted and found cosines",
            "> 0.90",
            found["rotation"]["spearman"],
            found["rotation"]["spearman"] > 0.9,
        ),
        v(
            "D11",
            "rare exclusive concepts: recall by scaling minus by bins, BatchTopK",
            ">= 0",
            found["rare topk"]["recall_by_scaling"] - found["rare topk"]["recall_by_bins"],
            found["rare topk"]["recall_by_scaling"] >= found["rare topk"]["recall_by_bins"],
        ),
        v(
            "D11",
            "the same, L1",
            ">= 0",
            found["rare l1"]["recall_by_scaling"] - found["rare l1"]["recall_by_bins"],
            found["rare l1"]["recall_by_scaling"] >= found["rare l1"]["recall_by_bins"],
        ),
        v(
            "D12",
            "shared recall, affine image of another width minus same space",
            ">= -0.10",
            affine - same,
            affine - same >= -0.1,
        ),
        v(
            "D13",
            "KL after patching least minus most specific half, BatchTopK by Δnorm",
            "> 0",
            patch["delta_norm_bottom"] - patch["delta_norm_top"],
            patch["delta_norm_bottom"] > patch["delta_norm_top"],
        ),
        v("D13", "the same, L1 by Δnorm", "report", patch_l1["delta_norm_bottom"] - patch_l1["delta_norm_top"], None),
        v(
            "D13",
            "the same, L1 by latent scaling",
            "> 0",
            patch_l1["scaling_bottom"] - patch_l1["scaling_top"],
            patch_l1["scaling_bottom"] > patch_l1["scaling_top"],
        ),
        v("S1", "difference SAE: recall of B-only concepts", "report", found["difference"]["only_b"], None),
    ]


def stability_verdicts(found: dict[str, Any]) -> list[Verdict]:
    """D14, on its one world."""
    strong, weak = found["strong_in_all_runs"], found["weak_in_all_runs"]
    return [
        Verdict("D14", "frequent quarter of concepts recovered in 5 of 5 runs", ">= 0.95", strong, strong >= 0.95),
        Verdict("D14", "the same, rare quarter", "<= the frequent quarter", weak, weak <= strong),
        Verdict(
            "D14", "live latents matched between two runs (cosine > 0.9)", "report", found["matched_between_runs"], None
        ),
    ]


def _share(flags: list[bool]) -> float:
    return sum(flags) / len(flags) if flags else float("nan")


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
