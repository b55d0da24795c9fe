"""Analyses of a saved crosscoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .boundary import quiet_libraries, user_errors
from .options import quiet_option
from .output import say
from .places import source_options
from .studies import json_value, study_of, study_options


@click.command()
@click.argument("name")
@click.option("--analysis", "analyses", multiple=True, help="Name, or a JSON object with name and options; repeatable.")
@study_options
@click.option("--explanations", type=click.Path(path_type=Path), help="Show these, from the analysis autointerp.")
@click.option("--output", default="analysis", show_default=True, type=click.Path(path_type=Path))
@quiet_option
@source_options
def analyse(
    name: str,
    analyses: tuple[str, ...],
    explanations: Path | None,
    output: Path,
    **options: Any,
) -> None:
    """Analyse a crosscoder (folder or Hub id, of any known format) and write report.html and report.json.

    Says first which models and tokens it reads. Local files that somebody else's crosscoder names are read only with
    --trust-recipe.
    """
    quiet_libraries()
    from ..analysis.running import AnalysesFailed
    from ..analysis.running import analyse as run
    from ..reports import save_page

    with user_errors():
        study = study_of(name, options)
        if explanations is not None:
            study.read_explanations(explanations)
        chosen = [json_value(text) if text.lstrip().startswith("{") else text for text in analyses]
        failed: AnalysesFailed | None = None
        try:
            reports = run(study.crosscoder, chosen, study=study)
        except AnalysesFailed as error:
            failed, reports = error, error.reports
        for report in reports:
            say(f"{report.title}: {report.summary}")
        if reports:
            say(f"report: {save_page(reports, output, title=f'Crosscoder {name}')}")
        if failed is not None:
            raise failed
