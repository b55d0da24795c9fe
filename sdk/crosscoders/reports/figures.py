"""Drawings as SVG or PNG, made with matplotlib but without its global state.

Matplotlib is imported by the first drawing: whoever draws none spares its 30 MB.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import frozen

from .svg import image_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 160
"""Pixels per inch of drawings as images."""
COLOURS = ("#2f6fb3", "#d1603d", "#4a9a5b", "#8a63a8", "#b58a2c", "#4aa3a8", "#b34f7a", "#6b6b6b")


@frozen
class Drawing:
    """A finished drawing."""

    figure: Figure

    def svg(self) -> str:
        """The drawing as SVG text; equal drawings give equal text."""
        from matplotlib import rc_context

        buffer = io.BytesIO()
        with rc_context({"svg.hashsalt": "crosscoders", "svg.fonttype": "none"}):
            self.figure.savefig(buffer, format="svg", metadata={"Date": None})
        return buffer.getvalue().decode()[len('<?xml version="1.0" encoding="utf-8" standalone="no"?>') :].strip()

    def image(self) -> str:
        """SVG text that shows the drawing as pixels: smaller than `svg` where there is much to draw."""
        height, width, _ = self.pixels().shape
        # 96 of the page's pixels are an inch, as `svg` has it.
        return image_svg(self.png(), round(width * 96 / DPI), round(height * 96 / DPI))

    def save_png(self, path: Path) -> None:
        """Write the drawing as PNG."""
        path.write_bytes(self.png())

    def png(self) -> bytes:
        """The drawing as PNG bytes, at twice the nominal resolution."""
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", dpi=DPI)
        return buffer.getvalue()

    def pixels(self) -> np.ndarray:
        """The drawing as an image: (height, width, 3) of uint8, red, green and blue."""
        from matplotlib.image import imread

        image = imread(io.BytesIO(self.png()), format="png")
        return (255 * image[..., :3]).round().astype(np.uint8)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _axes(xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    figure = _figure(6.4, 3.4)
    axes = figure.add_subplot()
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return figure, axes


def histogram(
    values: Mapping[str, Sequence[float]], *, xlabel: str, ylabel: str, bins: int = 50, log: bool = True
) -> Drawing:
    """Draw the counts of each named set of values over common bins."""
    figure, axes = _axes(xlabel, ylabel)
    several = len(values) > 1
    finite = [v for vs in values.values() for v in vs if math.isfinite(v)]
    span = (min(finite, default=0.0), max(finite, default=1.0))
    span = span if span[0] < span[1] else (span[0] - 0.5, span[0] + 0.5)
    for number, (name, numbers) in enumerate(values.items()):
        # One shape of all bars looks like a bar each, and is drawn much sooner.
        style: dict[str, Any] = (
            {"histtype": "step", "linewidth": 1.5} if several else {"histtype": "stepfilled", "alpha": 0.9}
        )
        axes.hist(
            [v for v in numbers if math.isfinite(v)],
            bins=bins,
            range=span,
            label=name,
            log=log and bool(finite),
            color=COLOURS[number % len(COLOURS)],
            **style,
        )
    if several:
        axes.legend(fontsize=8)
    return Drawing(figure)


def scatter(
    groups: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    xlabel: str,
    ylabel: str,
    vertical: float | None = None,
    horizontal: float | None = None,
) -> Drawing:
    """Draw the points of each named group, with optional threshold lines."""
    figure, axes = _axes(xlabel, ylabel)
    for number, (name, (xs, ys)) in enumerate(groups.items()):
        axes.scatter(xs, ys, s=7, alpha=0.6, label=name, color=COLOURS[number % len(COLOURS)], linewidths=0)
    if vertical is not None:
        axes.axvline(vertical, color="#888", linewidth=1, linestyle="--")
    if horizontal is not None:
        axes.axhline(horizontal, color="#888", linewidth=1, linestyle="--")
    axes.legend(fontsize=8)
    return Drawing(figure)


def curves(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    xlabel: str,
    ylabel: str,
    bands: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
    log: bool = False,
    log_x: bool = False,
) -> Drawing:
    """Draw named lines over x, each with an optional band from its low to its high values."""
    figure, axes = _axes(xlabel, ylabel)
    for number, (name, (xs, ys)) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(xs, ys, marker="o", markersize=3.5, label=name, color=colour)
        if bands and name in bands:
            axes.fill_between(xs, *bands[name], color=colour, alpha=0.18, linewidth=0)
    if log:
        axes.set_yscale("log")
    if log_x:
        from matplotlib.ticker import LogLocator, NullFormatter

        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.legend(fontsize=8)
    return Drawing(figure)


def forest(groups: Mapping[str, Mapping[str, tuple[float, float, float]]], *, xlabel: str) -> Drawing:
    """Draw a dot with its interval, (value, low, high), for each label of each named group, labels downwards."""
    figure, axes = _axes(xlabel, "")
    labels = list(dict.fromkeys(label for values in groups.values() for label in values))
    figure.set_figheight(1.0 + 0.26 * max(3, len(labels)))
    for number, (name, values) in enumerate(groups.items()):
        shift = (number - (len(groups) - 1) / 2) * 0.5 / max(1, len(groups))
        places = [labels.index(label) + shift for label in values]
        middle, low, high = (list(column) for column in zip(*values.values(), strict=True))
        reach = [
            [m - a if math.isfinite(a) else 0.0 for m, a in zip(middle, low, strict=True)],
            [b - m if math.isfinite(b) else 0.0 for m, b in zip(middle, high, strict=True)],
        ]
        axes.errorbar(
            middle, places, xerr=reach, fmt="o", markersize=4, linewidth=1.2, label=name,
            color=COLOURS[number % len(COLOURS)],
        )  # fmt: skip
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.invert_yaxis()
    if len(groups) > 1:
        axes.legend(fontsize=8)
    return Drawing(figure)


def heatmap(
    table: Sequence[Sequence[float | None]], *, rows: Sequence[str], columns: Sequence[str], label: str
) -> Drawing:
    """Draw a table of numbers as colours, with each number in its cell; None leaves a cell empty."""
    figure = _figure(2.2 + 0.62 * len(columns), 1.4 + 0.42 * len(rows))
    axes = figure.add_subplot()
    numbers = [[math.nan if value is None else value for value in row] for row in table]
    known = [value for row in numbers for value in row if math.isfinite(value)] or [0.0, 1.0]
    image = axes.imshow(numbers, cmap="cividis", aspect="auto", vmin=min(known), vmax=max(known))
    middle = (min(known) + max(known)) / 2
    axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    for y, row in enumerate(numbers):
        for x, value in enumerate(row):
            if math.isfinite(value):
                colour = "white" if value < middle else "black"
                axes.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(image, label=label)
    return Drawing(figure)
