"""Changing a group of a graph's latents in the running model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from ..errors import ConfigError
from .boundary import quiet_libraries, user_errors
from .output import say
from .places import opened, source_options
from .studies import json_value


@click.command()
@click.argument("crosscoders", nargs=-1, required=True)
@click.option(
    "--graph",
    "folder",
    required=True,
    type=click.Path(path_type=Path),
    help="The folder that `attribute` wrote, with graph/ and graph.html.",
)
@click.option(
    "--groups",
    type=click.Path(path_type=Path),
    help="JSON that the graph's page exported, with its groups [default: neuronpedia.json of the folder].",
)
@click.option("--group", "names", multiple=True, help="A group's name; repeatable [default: all].")
@click.option(
    "--latent", "latents", multiple=True, metavar="LAYER/INDEX@POSITION", help="A group made here; repeatable."
)
@click.option("--ablate", is_flag=True, help="Set the latents to 0; what is done if nothing is said.")
@click.option("--scale", type=float, help="Multiply their values.")
@click.option("--clamp", type=float, help="Set their values.")
@click.option("--add", type=float, help="Add to their values.")
@click.option("--model", help="Another model in the place of the recorded one: a Hub id, a folder, or a JSON object.")
@click.option("--device", default="auto", show_default=True, help="Where to compute; auto takes a GPU if there is one.")
@click.option("--trust-recipe", is_flag=True, help="Read the local files that the crosscoder's recipe names.")
@source_options
def intervene(
    crosscoders: tuple[str, ...],
    folder: Path,
    groups: Path | None,
    names: tuple[str, ...],
    latents: tuple[str, ...],
    ablate: bool,
    scale: float | None,
    clamp: float | None,
    add: float | None,
    model: str | None,
    device: str,
    trust_recipe: bool,
    **options: Any,
) -> None:
    """Change groups of a graph's latents in the model that CROSSCODERS explain, and say what that did to its targets.

    Groups are made on the graph's page, whose button JSON exports them. What the graph predicts stands beside what
    happens, and both are written into the page.
    """
    quiet_libraries()
    from ..circuits.effects_page import write_effects
    from ..circuits.graph import AttributionGraph
    from ..circuits.groups import Group, group_called, intervene_on_group, read_groups
    from ..circuits.loading import replacement_model
    from ..devices import find_device

    with user_errors():
        asked = [("scale", scale), ("clamp", clamp), ("add", add)]
        changes: list[Any] = [(kind, value) for kind, value in asked if value is not None]
        if len(changes) + ablate > 1:
            raise ConfigError("one of --ablate, --scale, --clamp and --add is enough")
        change: Any = changes[0] if changes else "ablate"
        graph = AttributionGraph.load(folder / "graph")
        chosen = []
        if latents:
            chosen = [Group(", ".join(latents), [_latent(text) for text in latents])]
        if groups is not None or names or not latents:
            found = read_groups(groups if groups is not None else folder / "neuronpedia.json")
            chosen += [group_called(found, name) for name in names or [group.label for group in found]]
        if not chosen:
            raise ConfigError("there are no groups; make one on the graph's page and export it with its button JSON")
        on = str(find_device(device, option="--device"))
        loaded = [opened(name, options, device=on) for name in crosscoders]
        other = json_value(model) if model and model.lstrip().startswith("{") else model
        replacement = replacement_model(loaded, other, trust_recipe=trust_recipe, say=lambda line: say(f"reads {line}"))
        effects = [intervene_on_group(replacement, graph, group, change) for group in chosen]
        for effect in effects:
            say(effect.table().title)
            for row in effect.table():
                say(_line(row))
        page = folder / "graph.html"
        if page.is_file():
            write_effects(page, effects)
            say(f"wrote {page}")


def _line(row: dict[str, Any]) -> str:
    numbers = "said {direct:+.4g} by its edges, {total:+.4g} by all paths; seen {observed:+.4g}".format(**row)
    known = not math.isnan(row["before"])  # the target is a token
    return f"  {row['target']!r}: {numbers}" + (
        "; probability {before:.4f} to {after:.4f}".format(**row) if known else ""
    )


def _latent(text: str) -> tuple[int, int, int]:
    layer, _, rest = text.partition("/")
    index, _, position = rest.partition("@")
    if not all(part.isascii() and part.isdigit() for part in (layer, index, position)):
        raise click.BadParameter(f"'{text}' should be LAYER/INDEX@POSITION, such as 3/117@5")
    return int(layer), int(position), int(index)
