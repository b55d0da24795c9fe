"""Which of Neuronpedia's sources a latent is in: one for each layer that latents read, numbered within it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from attrs import frozen

from ...crosscoder.module import Crosscoder
from ...errors import AnalysisError, listed

_POINT = re.compile(r"layers\.(\d+)(?:\.|$)")
HOOKS = {
    "": "hook_resid_post",
    "input": "hook_resid_pre",
    "attention": "hook_attn_out",
    "mlp_input": "hook_mlp_in",
    "mlp": "hook_mlp_out",
}
"""What TransformerLens, and so Neuronpedia, calls the points of a layer."""


@frozen
class Source:
    """The latents that read one layer; their numbers there are those of graphs."""

    layer: int
    latents: tuple[int, ...]
    """Their numbers in the crosscoder, in the order of those in the source."""
    notes: str
    """What is to be said of it."""

    def name(self, source_set: str, suffix: str = "") -> str:
        """`{layer}-{set}`, and `__{suffix}` where there is one."""
        return f"{self.layer}-{source_set}" + (f"__{suffix}" if suffix else "")


def sources_of(crosscoder: Crosscoder, points: Sequence[str]) -> list[Source]:
    """The sources of a crosscoder's latents, by layer; `points` are a model's in the order of its forward pass.

    A latent that reads several sites is listed once, under the first layer of them. `AnalysisError` names a site that
    is not of a numbered layer.
    """
    order = {point: place for place, point in enumerate(points)}
    wiring = crosscoder.wiring
    reads = [
        min(group.reads, key=lambda name: (layer_number(name), order.get(_point(name), 0))) for group in wiring.groups
    ]
    by_layer: dict[int, list[int]] = {}
    for index in sorted(range(len(reads)), key=lambda i: (order.get(_point(reads[i]), 0), i)):
        by_layer.setdefault(layer_number(reads[index]), []).append(index)
    found = []
    for layer, indices in sorted(by_layer.items()):
        groups = [wiring.groups[index] for index in indices]
        latents = [
            j for group in groups for j in range(*wiring.latent_slices[group.name].indices(crosscoder.num_latents))
        ]
        several = sorted({name for group in groups if len(group.reads) > 1 for name in group.reads})
        notes = "Latents of a crosscoder."
        if several:
            notes += (
                f" They read {len(several)} sites ({listed(several, ', ')}), and are listed once, under the first "
                "layer of these."
            )
        written = sorted({name for group in groups for name in group.writes})
        notes += f" They write {listed(written, ', ')}."
        found.append(Source(layer, tuple(latents), notes))
    return found


def layer_number(site: str) -> int:
    """The number of the layer that a site is in."""
    match = _POINT.match(_point(site))
    if match is None:
        raise AnalysisError(
            f"the site {site} is not of a numbered layer, such as {site.partition('/')[0]}/layers.3; Neuronpedia lists "
            "latents by layer"
        )
    return int(match[1])


def hook_name(site: str) -> str:
    """A site as TransformerLens calls it, `blocks.3.hook_resid_post`."""
    point = _point(site)
    _, _, part = point.removeprefix("layers.").partition(".")
    return f"blocks.{layer_number(site)}.{HOOKS.get(part, part)}"


def _point(site: str) -> str:
    return site.partition("/")[2]
