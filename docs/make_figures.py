"""Draw the figures of the worlds page from the recorded claims: `python docs/make_figures.py`."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

HERE = Path(__file__).parent
BLUE, RED, GREEN, GREY = "#2f6fb3", "#d1603d", "#4a9a5b", "#8a8a8a"
LAYERS = 6


def canvas(columns: int, *, height: float = 3.4) -> tuple[Figure, list[Axes]]:
    """A row of panels."""
    figure = Figure(figsize=(5 * columns, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.25)
    return figure, list(axes)


def save(figure: Figure, name: str) -> None:
    """Write a picture beside the documentation's others."""
    target = HERE / "images" / f"{name}.png"
    target.parent.mkdir(exist_ok=True)
    figure.savefig(target, dpi=110)


def misattribution(seeds: list[dict[str, Any]]) -> None:
    """B-only latents by norms, true and spurious, before and after latent scaling; shrinkage by dose."""
    figure, (left, right) = canvas(2)
    arms = (("l1", "L1"), ("topk", "BatchTopK"), ("dedicated", "BatchTopK,\ndedicated"))
    for place, (key, _) in enumerate(arms):
        for shift, suffix in ((-0.2, ""), (0.2, "_after_scaling")):
            true = mean(s[key]["true_after_scaling" if suffix else "true_by_norms"] for s in seeds)
            spurious = mean(s[key][f"spurious{suffix}"] for s in seeds)
            faded = 0.45 if suffix else 1.0
            first = place == 0
            after = ", after latent scaling" if suffix else ""
            left.bar(place + shift, true, 0.36, color=GREEN, alpha=faded, label=f"true{after}" if first else None)
            left.bar(place + shift, spurious, 0.36, bottom=true, color=RED, alpha=faded,
                     label=f"spurious{after}" if first else None)  # fmt: skip
    left.set_xticks(range(len(arms)), [label for _, label in arms])
    left.set(ylabel="B-only latents by Δnorm", title="8 concepts are only in B (mean of seeds)")
    left.legend(fontsize=8)
    doses = [row["from"] + 0.0875 for row in seeds[0]["dose"]["shrunk"]]
    for key, colour, label in (
        ("called_b_only", RED, "called B-only by L1"),
        ("of_them_shrunk", BLUE, "shrunk (ν^ε ≥ 0.2)"),
    ):
        for number, s in enumerate(seeds):
            values = [row[key] for row in s["dose"]["shrunk"]]
            right.plot(doses, values, marker="o", color=colour, alpha=0.6, label=label if number == 0 else None)
    right.set(
        xlabel="strength in A relative to B",
        ylabel="share of concepts",
        title="Complete shrinkage by dose",
        ylim=(0, 1),
    )
    right.legend(fontsize=8)
    save(figure, "misattribution")


def pareto(seeds: list[dict[str, Any]]) -> None:
    """Acausal crosscoders against per-layer autoencoders, by latents, by operations, and in the error-L0 plane."""
    figure, panels = canvas(3)
    arms = (("acausal", [16, 32, 64, 96], BLUE, "acausal"), ("saes", [96, 192, 384, 576], RED, "per-layer SAEs"))
    for name, counts, colour, label in arms:
        for number, s in enumerate(seeds):
            rows = [s[f"{name} {count}"] for count in counts]
            shown = label if number == 0 else None
            style = {"marker": "o", "color": colour, "alpha": 0.6, "label": shown}
            panels[0].plot(counts, [row["loss"] for row in rows], **style)
            panels[1].plot([row["flops"] for row in rows], [row["loss"] for row in rows], **style)
            panels[2].plot([row["l0"] for row in rows], [row["error"] for row in rows], **style)
    panels[0].set(xlabel="latents in all", ylabel="evaluation loss", title="Equal latents")
    panels[1].set(xlabel="operations per token", ylabel="evaluation loss", title="Equal compute")
    panels[2].set(xlabel="L0 over all layers", ylabel="squared error", title="Error and sparsity")
    for panel in panels:
        panel.set(xscale="log", yscale="log")
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
    panels[0].legend(fontsize=8)
    save(figure, "pareto")


def windows(seeds: list[dict[str, Any]]) -> None:
    """Evaluation loss by window size, with the weakly causal crosscoder beside it."""
    figure, (panel,) = canvas(1)
    sizes = range(1, LAYERS + 1)
    for number, s in enumerate(seeds):
        losses = [s[f"window {k}"]["loss"] for k in sizes]
        panel.plot(sizes, losses, marker="o", color=BLUE, alpha=0.6, label="local, 96 latents" if number == 0 else None)
        for count, style in ((96, "--"), (192, ":")):
            label = f"weakly causal, {count} latents" if number == 0 else None
            panel.axhline(s[f"weakly causal {count}"]["loss"], color=GREEN, ls=style, alpha=0.6, label=label)
    panel.set(xlabel="window K (1: per-layer SAEs, 6: acausal)", ylabel="evaluation loss")
    panel.legend(fontsize=8)
    save(figure, "windows")


def profiles(seeds: list[dict[str, Any]]) -> None:
    """Planted and found norm profiles, and how many layers write and drive the latents of features by their span."""
    figure, (left, right) = canvas(2, height=3.8)
    for row, example in enumerate(seeds[0]["profile"]["examples"]):
        planted = [v / max(example["planted"]) for v in example["planted"]]
        left.fill_between(range(LAYERS), row, [row + 0.8 * v for v in planted], color=GREY, alpha=0.35, lw=0)
        left.plot(range(LAYERS), [row + 0.8 * v for v in example["found"]], color=BLUE, lw=1.4)
    left.set(xlabel="layer", yticks=[], title="Norm profiles: planted (grey), found (blue)")
    spans = range(1, LAYERS + 1)
    right.plot(spans, spans, color=GREY, lw=1, label="planted")
    arms = (("l1", "written_by_span", GREEN, "written to"), ("l1", "driven_by_span", BLUE, "driven by"),
            ("l1 masked", "driven_by_span", RED, "driven by, 5 % of sites masked"))  # fmt: skip
    for key, kind, colour, label in arms:
        found = [mean(s[f"coherence {key}"][kind][str(span)] for s in seeds) for span in spans]
        right.plot(spans, found, marker="o", color=colour, alpha=0.8, label=label)
    right.set(xlabel="layers a feature lives on", ylabel="effective number of layers", title="Functional coherence, L1")
    right.legend(fontsize=8)
    save(figure, "profiles")


def main() -> None:
    record = json.loads((HERE.parent / "bench" / "results" / "claims.json").read_text())
    diff = list(record["diff"]["numbers"].values())
    layers = list(record["layers"]["numbers"].values())
    misattribution(diff)
    pareto(layers)
    windows(layers)
    profiles(layers)


if __name__ == "__main__":
    main()
