"""Draw the README's picture from a demo, and that of the tutorial on layers from its run.

python docs/make_images.py demo demo/report.json
python docs/make_images.py layers runs/layers
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLOURS = ("#2f6fb3", "#d1603d", "#4a9a5b")


def canvas(height: float) -> tuple[Figure, list[Axes]]:
    """Two panels side by side."""
    figure = Figure(figsize=(10, height), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(1, 2))
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    return figure, panels


def draw_layers(run: Path) -> Figure:
    """Over how many layers latents are read and written, and what each layer's reconstruction costs the model."""
    figure, (left, right) = canvas(3.2)
    (coherence,) = json.loads((run / "coherence" / "report.json").read_text())
    data = coherence["data"]
    shown = [i for i, value in enumerate(data["effective_sites"]) if value is not None]
    for colour, key, label in (
        (COLOURS[0], "effective_sites", "read"),
        (COLOURS[1], "effective_sites_by_norm", "written"),
    ):
        values = [data[key][i] for i in shown]
        left.hist(values, bins=40, range=(1, 4), histtype="step", lw=1.6, log=True, color=colour, label=label)
    left.set(xlabel="effective number of layers", ylabel="latents", title="Over how many of four layers latents extend")
    left.legend()
    metrics = json.loads((run / "crosscoder" / "config.json").read_text())["metrics"]
    sites = list(metrics["explained_variance"])
    lost = []
    for site in sites:
        ce = metrics["spliced"][site]
        lost.append(100 * (ce["ce_spliced"] - ce["ce_clean"]) / (ce["ce_zero"] - ce["ce_clean"]))
    right.bar([site.partition("/")[2] for site in sites], lost, color=COLOURS[0], width=0.6)
    right.set(ylabel="% of what zeros cost", title="What the model loses with a layer reconstructed")
    return figure


def draw_demo(report: Path) -> Figure:
    """Where latents write, and how amplification brings out what was planted."""
    reports = {report["title"]: report for report in json.loads(report.read_text())}
    norms, amplification = reports["Decoder norms"], reports["Amplification"]
    figure, (left, right) = canvas(3.4)
    key = next(name for name in norms["data"] if name.startswith("delta_norm"))
    left.hist(norms["data"][key], bins=60, log=True, color=COLOURS[0])
    left.set(xlabel="Δnorm (0: only base, 1: only chat)", ylabel="latents", title="Where each latent writes")
    arms = amplification["data"]["arms"]
    for colour, name in zip(COLOURS, arms[0]["hits"], strict=False):
        rates = [100 * arm["hits"][name] / arm["answers"] for arm in arms]
        right.plot([arm["alpha"] for arm in arms], rates, marker="o", color=colour, label=name)
    right.set(xlabel="amplification α", ylabel="% of answers", title="Planted behaviours, amplified")
    right.legend()
    return figure


if __name__ == "__main__":
    name, source = sys.argv[1], Path(sys.argv[2])
    picture = {"demo": draw_demo, "layers": draw_layers}[name](source)
    picture.savefig(Path(__file__).parent / "images" / f"{name}.png", dpi=110)
