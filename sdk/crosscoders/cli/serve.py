"""The live mode by a command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .boundary import quiet_libraries, user_errors
from .output import say
from .places import source_options
from .studies import model_options, study_of


@click.command()
@click.argument("name")
@click.option(
    "--dashboard",
    type=click.Path(path_type=Path),
    help="Show this folder, which `crosscoders dashboard` wrote; without it there are only the live panels.",
)
@click.option("--port", default=0, show_default=True, help="Port on the loopback address; 0 takes a free one.")
@click.option("--no-browser", is_flag=True, help="Print the link only.")
@click.option("--explanations", type=click.Path(path_type=Path), help="Show these, from the analysis autointerp.")
@model_options
@source_options
def serve(
    name: str,
    dashboard: Path | None,
    port: int,
    no_browser: bool,
    explanations: Path | None,
    **options: Any,
) -> None:
    """Try texts and steer models in a browser on this machine, with the models of a crosscoder (folder or Hub id).

    Type a text and see its latents, token by token and model by model; change latents or amplify a difference and see
    the models' answers beside those without. Needs the extra crosscoders[serve].
    """
    quiet_libraries()
    from ..checkpoints.dashboard import finished_facts
    from ..explorer.serve import serve as run

    with user_errors():
        if dashboard is not None:
            finished_facts(dashboard)  # before models are loaded
        study = study_of(name, {**options, "quiet": True}, reads_tokens=False)
        if explanations is not None:
            study.read_explanations(explanations)
        run(study, dashboard=dashboard, name=name, port=port, browser=not no_browser, say=say)
