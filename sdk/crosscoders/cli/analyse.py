"""Analyses of a saved crosscoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .boundary import quiet_libraries, user_errors


@click.command()
@click.argument("name")
@click.option("--analysis", "analyses", multiple=True, help="Name, or a JSON object with name and options; repeatable.")
@click.option("--revision", help="Branch, tag or commit on the Hub.")
@click.option("--tokens", default=65_536, show_default=True, help="Held-out tokens to analyse on.")
@click.option("--seed", default=0, show_default=True)
@click.option("--output", default="analysis", show_default=True, type=click.Path(path_type=Path))
def analyse(name: str, analyses: tuple[str, ...], revision: str | None, tokens: int, seed: int, output: Path) -> None:
    """Analyse a saved crosscoder (folder or Hub id) and write report.html and report.json."""
    quiet_libraries()
    from ..analysis.study import AnalysesFailed
    from ..analysis.study import analyse as run
    from ..crosscoder.module import Crosscoder
    from ..reports import save_page

    with user_errors():
        crosscoder = Crosscoder.from_pretrained(name, revision=revision)
        chosen = [_analysis(text) for text in analyses] or ["decoder_norms", "latent_scaling"]
        failed: AnalysesFailed | None = None
        try:
            reports = run(crosscoder, chosen, num_tokens=tokens, seed=seed)
        except AnalysesFailed as error:
            failed, reports = error, error.reports
        for report in reports:
            click.echo(f"{report.title}: {report.summary}")
        if reports:
            click.echo(f"report: {save_page(reports, output, title=f'Crosscoder {name}')}")
        if failed is not None:
            raise failed


def _analysis(text: str) -> Any:
    if not text.lstrip().startswith("{"):
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise click.BadParameter(f"{text} is no JSON: {error}") from error
