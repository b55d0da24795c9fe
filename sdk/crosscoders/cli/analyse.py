"""Analyses of a saved crosscoder."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import click

from ..errors import ConfigError, shown
from .boundary import quiet_libraries, user_errors
from .options import quiet_option
from .output import say
from .places import opened, source_options

DEFAULT_TOKENS = 65_536


@click.command()
@click.argument("name")
@click.option("--analysis", "analyses", multiple=True, help="Name, or a JSON object with name and options; repeatable.")
@click.option(
    "--models",
    multiple=True,
    metavar="KEY=MODEL",
    help="Another model in the place of the recorded one: a Hub id, a folder, or a JSON object with name and options; "
    "repeatable.",
)
@click.option(
    "--tokens",
    multiple=True,
    metavar="NUMBER|SOURCE",
    help=f"How many held-out tokens to analyse on [default: {DEFAULT_TOKENS}], or where they come from instead of the "
    "recorded source: a JSON object with name and options, or a JSON or TOML file of it (a run's config too); may be "
    "given twice, for both.",
)
@click.option("--trust-recipe", is_flag=True, help="Read the local files that the crosscoder's recipe names.")
@click.option("--device", default="auto", show_default=True, help="Where to compute; auto takes a GPU if there is one.")
@click.option("--explanations", type=click.Path(path_type=Path), help="Show these, from the analysis autointerp.")
@click.option("--seed", default=0, show_default=True)
@click.option("--output", default="analysis", show_default=True, type=click.Path(path_type=Path))
@quiet_option
@source_options
def analyse(
    name: str,
    analyses: tuple[str, ...],
    models: tuple[str, ...],
    tokens: tuple[str, ...],
    trust_recipe: bool,
    device: str,
    explanations: Path | None,
    seed: int,
    output: Path,
    quiet: bool,
    **options: Any,
) -> None:
    """Analyse a crosscoder (folder or Hub id, of any known format) and write report.html and report.json.

    Says first which models and tokens it reads. Local files that somebody else's crosscoder names are read only with
    --trust-recipe.
    """
    quiet_libraries()
    from ..analysis.running import AnalysesFailed
    from ..analysis.running import analyse as run
    from ..analysis.study import Study
    from ..devices import find_device
    from ..reports import save_page

    with user_errors():
        place = find_device(device, option="--device")
        crosscoder = opened(name, options, device=str(place))
        numbers = [int(text) for text in tokens if text.isdigit()]
        sources = [_source(text) for text in tokens if not text.isdigit()]
        if len(numbers) > 1 or len(sources) > 1:
            raise ConfigError("--tokens takes one number and one source at most")
        study = Study.of(
            crosscoder,
            models=dict(map(_model, models)),
            tokens=sources[0] if sources else None,
            num_tokens=numbers[0] if numbers else DEFAULT_TOKENS,
            seed=seed,
            trust_recipe=trust_recipe,
            quiet=quiet,
            say=lambda line: say(f"reads {line}"),
        )
        if explanations is not None:
            study.read_explanations(explanations)
        if options["scales"] == ("estimate",):
            study.estimate_normalisation()
        chosen = [_analysis(text) for text in analyses]
        failed: AnalysesFailed | None = None
        try:
            reports = run(crosscoder, chosen, study=study)
        except AnalysesFailed as error:
            failed, reports = error, error.reports
        for report in reports:
            say(f"{report.title}: {report.summary}")
        if reports:
            say(f"report: {save_page(reports, output, title=f'Crosscoder {name}')}")
        if failed is not None:
            raise failed


def _analysis(text: str) -> Any:
    return _json(text) if text.lstrip().startswith("{") else text


def _model(text: str) -> tuple[str, Any]:
    key, equals, model = text.partition("=")
    if not equals or not key or not model:
        raise click.BadParameter(f"'{text}' should be KEY=ID_OR_FOLDER")
    return key, _json(model) if model.lstrip().startswith("{") else model


def _source(text: str) -> Any:
    """A token source from JSON, or from a file whose whole or whose `tokens` table it is."""
    if text.lstrip().startswith("{"):
        return _json(text)
    path = Path(text)
    if not _is_file(path):
        raise click.BadParameter(
            f"{shown(text)} should be a number, a JSON object, or a JSON or TOML file that is here"
        )
    try:
        content = path.read_text(encoding="utf-8-sig")
        data = tomllib.loads(content) if path.suffix == ".toml" else json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise click.BadParameter(f"{path} cannot be read: {error}") from error
    return data.get("tokens", data) if isinstance(data, dict) else data


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have, such as one that is too long
        return False


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"{shown(text)} is not valid JSON: {error}") from error
