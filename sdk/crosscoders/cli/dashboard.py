"""A dashboard of all latents by a command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import click

from .boundary import quiet_libraries, user_errors
from .options import quiet_option
from .output import say
from .places import source_options
from .studies import latents_option, study_of, study_options


@click.command()
@click.argument("name")
@click.option("--output", default="dashboard", show_default=True, type=click.Path(path_type=Path))
@latents_option
@click.option(
    "--results",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A folder that `analyse` wrote, or its report.json, whose numbers become columns and facts; repeatable.",
)
@click.option(
    "--graph",
    "graphs",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A folder that `attribute` wrote, whose pages are linked; repeatable.",
)
@click.option("--explanations", type=click.Path(path_type=Path), help="Show these, from the analysis autointerp.")
@click.option("--title", default="", help="Of the page.")
@click.option("--top", type=click.IntRange(1), help="Strongest examples of each latent.")
@click.option("--per-range", type=click.IntRange(0), help="Examples from each part of a latent's range.")
@click.option("--fresh", is_flag=True, help="Begin anew even where a run that was stopped could go on.")
@study_options
@quiet_option
@source_options
def dashboard(
    name: str,
    output: Path,
    chosen: str,
    results: tuple[Path, ...],
    graphs: tuple[Path, ...],
    explanations: Path | None,
    title: str,
    top: int | None,
    per_range: int | None,
    fresh: bool,
    **options: Any,
) -> None:
    """Write a folder of pages with every latent of a crosscoder (folder or Hub id): open its index.html in a browser.

    A run that was stopped goes on with the same command.
    """
    quiet_libraries()
    from ..explorer.choosing import LatentDetail
    from ..explorer.dashboard import check_target, write_dashboard
    from ..explorer.selection import selected_latents

    with user_errors():
        check_target(output)  # before models are loaded
        study = study_of(name, options)
        latents = selected_latents(study.crosscoder, chosen)
        detail = LatentDetail.for_count(study.crosscoder.num_latents if latents is None else len(latents))
        asked = {"top": top, "per_range": per_range}
        page = write_dashboard(
            study,
            output,
            latents=latents,
            results=[*results, *([explanations] if explanations else [])],
            graphs=graphs,
            title=title,
            detail=attrs.evolve(detail, **{key: value for key, value in asked.items() if value is not None}),
            resume=not fresh,
        )
        say(f"dashboard: {page}")
