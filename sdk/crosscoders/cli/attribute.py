"""Attribution graphs of a prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import ConfigError
from .boundary import quiet_libraries, user_errors
from .options import quiet_option
from .output import say
from .places import opened, source_options

if TYPE_CHECKING:
    from ..circuits.graph import AttributionGraph
    from ..circuits.replacement import ReplacementModel


@click.command()
@click.argument("crosscoders", nargs=-1, required=True)
@click.option(
    "--prompt",
    "prompts",
    multiple=True,
    required=True,
    help="The text whose next token is explained; repeatable, with a folder 1, 2, ... in OUTPUT for each.",
)
@click.option("--chat", is_flag=True, help="Lay prompts out as a user's questions by the model's chat template.")
@click.option("--model", help="Another model in the place of the recorded one: a Hub id, a folder, or a JSON object.")
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="TOKEN|ID|A-MINUS-B",
    help="What to explain: a token's text, its number after '#', or two of them with ' - ' between; repeatable. "
    "Otherwise the most probable next tokens.",
)
@click.option("--top-p", default=0.95, show_default=True, help="Probability that the most probable tokens reach.")
@click.option("--max-targets", default=10, show_default=True, help="Most probable tokens at most.")
@click.option("--max-nodes", default=7500, show_default=True, help="Latents that the graph has at most.")
@click.option("--batch-size", default=64, show_default=True, help="Rows that are pulled back at once.")
@click.option("--skip", "skipped", multiple=True, type=int, help="A position to leave out [default: BOS]; repeatable.")
@click.option("--node-threshold", default=0.8, show_default=True, help="Share of influence that nodes shown make up.")
@click.option("--edge-threshold", default=0.98, show_default=True, help="The same of edges.")
@click.option("--fidelity", "ablations", default=20, show_default=True, help="Latents ablated to check the graph.")
@click.option(
    "--examples",
    default=0,
    show_default=True,
    metavar="TOKENS",
    help="Show where latents are most active among this many tokens of the crosscoders' own source.",
)
@click.option(
    "--compare",
    "others",
    default="",
    metavar="MODEL",
    help="Another model, whose graph by the same crosscoders goes to OUTPUT/compared; pair.html shows both.",
)
@click.option("--scan", default="", help="The model's id on Neuronpedia [default: the end of its name].")
@click.option("--source-set", default="", help="The set of latents on Neuronpedia, for looking them up.")
@click.option("--device", default="auto", show_default=True, help="Where to compute; auto takes a GPU if there is one.")
@click.option("--trust-recipe", is_flag=True, help="Read the local files that the crosscoder's recipe names.")
@click.option("--output", default="graph", show_default=True, type=click.Path(path_type=Path))
@quiet_option
@source_options
def attribute(
    crosscoders: tuple[str, ...],
    prompts: tuple[str, ...],
    chat: bool,
    model: str | None,
    targets: tuple[str, ...],
    top_p: float,
    max_targets: int,
    max_nodes: int,
    batch_size: int,
    skipped: tuple[int, ...],
    node_threshold: float,
    edge_threshold: float,
    ablations: int,
    examples: int,
    others: str,
    scan: str,
    source_set: str,
    device: str,
    trust_recipe: bool,
    output: Path,
    quiet: bool,
    **options: Any,
) -> None:
    """Explain the next token of a prompt by latents of CROSSCODERS: one over all layers, or one for each.

    Writes a graph (graph.json, graph.safetensors), a page to look at it (graph.html), and the file that circuit-tracer
    and Neuronpedia read (neuronpedia.json). A run that was stopped goes on with the same command.
    """
    quiet_libraries()
    from ..analysis.study import Study
    from ..circuits.attribution import attribution_graph
    from ..circuits.features import write_features
    from ..circuits.graph_fidelity import graph_fidelity
    from ..circuits.graph_files import save_graph
    from ..circuits.loading import replacement_model
    from ..devices import find_device
    from ..models.documents import Text, TokenIds

    with user_errors():
        on = str(find_device(device, option="--device"))
        loaded = [opened(name, options, device=on) for name in crosscoders]
        replacement, other = (
            replacement_model(
                loaded,
                _json(one) if one and one.lstrip().startswith("{") else one,
                trust_recipe=trust_recipe,
                say=lambda line: say(f"reads {line}"),
            )
            if one or number == 0
            else None
            for number, one in enumerate((model, others))
        )
        assert replacement is not None
        skip_positions = list(skipped) or None
        studies = [
            Study.of(
                crosscoder,
                models={site.model: replacement.adapter for site in crosscoder.sites},
                num_tokens=examples,
                trust_recipe=trust_recipe,
                quiet=quiet,
            )
            for crosscoder in (loaded if examples else [])
        ]
        for number, prompt in enumerate(prompts, 1):
            document = TokenIds(tuple(replacement.adapter.prompt(prompt))) if chat else Text(prompt)
            place = output / str(number) if len(prompts) > 1 else output
            fidelity = replacement.fidelity(document, skip_positions=skip_positions)
            settings: dict[str, Any] = {
                "top_p": top_p,
                "max_targets": max_targets,
                "max_nodes": max_nodes,
                "batch_size": batch_size,
                "skip_positions": skip_positions,
                "progress": not quiet,
                "say": say,
            }
            graph = attribution_graph(
                replacement,
                document,
                targets=[_target(text) for text in targets] or None,
                folder=place / "rows",
                **settings,
            )
            say(f"{graph!r}; rows add up to {graph.gap():.1g}")
            say(
                f"replacement model: KL {fidelity.kl:.3g} nats, top-1 {fidelity.top1_agreement:.0%}; replacement score "
                f"{graph.replacement_score:.3f}, completeness {graph.completeness_score:.3f}"
            )
            checked = None
            if ablations > 0 and graph.num_latents:
                checked = graph_fidelity(replacement, graph, top=ablations, skip_positions=skip_positions)
                say(checked.table().title)
            if studies:
                shown = graph.pruned(node_threshold=node_threshold, edge_threshold=edge_threshold)
                write_features(replacement, shown, studies, place / "features")
            written = save_graph(
                graph,
                place,
                features=place / "features" if studies else None,
                scan=scan,
                source_set=source_set,
                fidelity=fidelity,
                checked=checked,
                node_threshold=node_threshold,
                edge_threshold=edge_threshold,
                say=say,
            )
            if other is not None:
                written += _compared(graph, other, document, place, settings)
            for path in written:
                say(f"wrote {path}")


def _compared(
    graph: AttributionGraph, other: ReplacementModel, document: Any, place: Path, settings: dict[str, Any]
) -> list[Path]:
    """The graph of another model with the same targets, and a page of both."""
    from ..circuits.attribution import attribution_graph
    from ..circuits.compare import compare_graphs
    from ..circuits.graph_files import save_graph
    from ..circuits.pair_page import save_pair

    # A difference is described by its tokens only in words: what both graphs explain are the tokens.
    targets = [target.token for target in graph.targets if target.token is not None]
    tokens = other.row(document)
    if tokens.ids[0].tolist() != graph.ids:
        raise ConfigError("the model of --compare reads the prompt as other tokens, so the graphs cannot be compared")
    second = attribution_graph(other, document, targets=targets or None, folder=place / "compared-rows", **settings)
    fidelity = other.fidelity(document, skip_positions=settings["skip_positions"])
    say(
        f"compared: {second!r}; KL {fidelity.kl:.3g} nats, top-1 {fidelity.top1_agreement:.0%}; latents that do not "
        "explain a model say nothing about it"
    )
    names = (_model_name(graph), _model_name(second))
    written = save_graph(second, place / "compared", fidelity=fidelity, say=say)
    return [*written, save_pair(compare_graphs(graph, second), place / "pair.html", names=names)]


def _model_name(graph: AttributionGraph) -> str:
    return str(dict(graph.record.get("model", {})).get("model", "")) or "a model"


def _target(text: str) -> Any:
    from ..circuits.targets import Difference

    more, between, less = text.partition(" - ")
    return Difference(_token(more), _token(less)) if between and more and less else _token(text)


def _token(text: str) -> int | str:
    return int(text[1:]) if text.startswith("#") and text[1:].isdigit() else text


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"--model {text} is not valid JSON: {error}") from error


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--site", default="https://www.neuronpedia.org", show_default=True, help="Address of the site.")
def upload_graph(file: Path, site: str) -> None:
    """Upload the neuronpedia.json of a graph with the API key in NEURONPEDIA_API_KEY; whoever has the link sees it."""
    from ..circuits.upload import upload_graph as upload

    with user_errors():
        say(upload(file, site=site))
