"""Draw the README's picture from a demo's report: `python docs/make_images.py demo/report.json`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLOURS = ("#2f6fb3", "#d1603d", "#4a9a5b")


def main() -> None:
    reports = {report["title"]: report for report in json.loads(Path(sys.argv[1]).read_text())}
    norms, amplification = reports["Decoder norms"], reports["Amplification"]
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    key = next(name for name in norms["data"] if name.startswith("delta_norm"))
    left.hist(norms["data"][key], bins=60, log=True, color=COLOURS[0])
    left.set(xlabel="Δnorm (0: only base, 1: only chat)", ylabel="latents", title="Where each latent writes")
    arms = amplification["data"]["arms"]
    for colour, name in zip(COLOURS, arms[0]["hits"], strict=False):
        rates = [100 * arm["hits"][name] / arm["answers"] for arm in arms]
        right.plot([arm["alpha"] for arm in arms], rates, marker="o", color=colour, label=name)
    right.set(xlabel="amplification α", ylabel="% of answers", title="Planted behaviours, amplified")
    right.legend()
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    target = Path(__file__).parent / "images" / "demo.png"
    target.parent.mkdir(exist_ok=True)
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    main()
