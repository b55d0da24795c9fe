"""Latents for Neuronpedia."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .boundary import quiet_libraries, user_errors
from .options import quiet_option
from .output import say
from .places import source_options
from .studies import latents_option, study_of, study_options


@click.command()
@click.argument("name")
@click.option("--model-id", required=True, help="The model as Neuronpedia calls it, such as gemma-2-2b.")
@click.option("--source-set", required=True, help="The set of latents, such as crosscoder-16k.")
@click.option(
    "--to",
    "layout",
    default="neuronpedia",
    show_default=True,
    type=click.Choice(["neuronpedia", "api", "saedashboard"]),
    help="Its bulk layout, bodies for its API, or SAEDashboard's batches.",
)
@click.option("--creator-id", default="", help="Of a user of the site that imports; the bulk layout needs it.")
@click.option("--creator", "creator_name", default="", help="Your name; the bulk layout needs it.")
@click.option("--suffix", default="", help="Distinguishes sources of the same set and layer.")
@click.option("--title", default="", help="Of the release [default: the set].")
@click.option("--description", default="", help="Of the set.")
@click.option("--url", default="", help="Where to read more.")
@click.option("--owner", default="", help="Who made the model.")
@click.option("--instruct", is_flag=True, help="The model follows instructions.")
@click.option("--repository", default="", help="Of the weights on the Hub.")
@click.option("--dataset", default="", help="What the tokens are from.")
@click.option("--explained-by", default="", help="The kind of explanations, by a name that the site knows.")
@click.option("--explaining-model", default="", help="Who wrote the explanations, by a name that the site knows.")
@latents_option
@click.option("--explanations", type=click.Path(path_type=Path), help="Export these too, from the analysis autointerp.")
@click.option("--vectors", is_flag=True, help="With decoder rows, to steer by.")
@click.option("--output", default="neuronpedia", show_default=True, type=click.Path(path_type=Path))
@study_options
@quiet_option
@source_options
def export_features(
    name: str,
    layout: Any,
    chosen: str,
    explanations: Path | None,
    vectors: bool,
    output: Path,
    model_id: str,
    source_set: str,
    creator_id: str,
    creator_name: str,
    suffix: str,
    title: str,
    description: str,
    url: str,
    owner: str,
    instruct: bool,
    repository: str,
    dataset: str,
    explained_by: str,
    explaining_model: str,
    **options: Any,
) -> None:
    """Write the latents of a crosscoder (folder or Hub id) as Neuronpedia or SAEDashboard has them, checked offline.

    Nothing is sent: the folder is for whoever imports it.
    """
    quiet_libraries()
    from ..explorer.neuronpedia.exporting import check_target
    from ..explorer.neuronpedia.exporting import export_features as run
    from ..explorer.neuronpedia.listing import NeuronpediaListing
    from ..explorer.selection import selected_latents

    with user_errors():
        listing = NeuronpediaListing(
            model_id=model_id,
            source_set=source_set,
            creator_id=creator_id,
            creator_name=creator_name,
            suffix=suffix,
            title=title,
            description=description,
            url=url,
            owner=owner,
            instruct=instruct,
            repository=repository,
            dataset=dataset,
            explained_by=explained_by,
            explaining_model=explaining_model,
        )
        check_target(output, layout, listing)  # before models are loaded
        study = study_of(name, options)
        if explanations is not None:
            study.read_explanations(explanations)
        latents = selected_latents(study.crosscoder, chosen)
        say(f"wrote {run(study, output, listing, layout=layout, latents=latents, vectors=vectors)}")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
def check_features(folder: Path) -> None:
    """Say everything in FOLDER that Neuronpedia, or its converter, would refuse, skip or not show; asks no server."""
    from ..errors import AnalysisError
    from ..explorer.neuronpedia.checking import neuronpedia_problems

    with user_errors():
        count = 0
        for problem in neuronpedia_problems(folder):
            say(problem)
            count += 1
        if count:
            raise AnalysisError(f"{folder} has {count} problems")
        say(f"nothing is wrong with {folder}")
