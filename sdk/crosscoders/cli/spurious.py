"""Genuine or spurious exclusives, by one command."""

from __future__ import annotations

import json
from pathlib import Path

import click

from .boundary import process_group, quiet_libraries, user_errors
from .options import config_argument, one_value, quiet_option, set_option
from .output import say


@click.command()
@config_argument
@click.option("--output", type=click.Path(path_type=Path), help="Write here instead of where the config says.")
@click.option("--loss", "losses", multiple=True, metavar="JSON", help="Another loss to compare; repeatable.")
@click.option("--seeds", default=1, show_default=True, help="Number of further seeds to train.")
@click.option("--tokens", default=65_536, show_default=True, help="Held-out tokens to analyse on.")
@set_option
@quiet_option
def spurious(
    config: Path,
    output: Path | None,
    losses: tuple[str, ...],
    seeds: int,
    tokens: int,
    settings: tuple[str, ...],
    quiet: bool,
) -> None:
    """Are the latents that look exclusive to one model really so?

    Trains the crosscoder of a TOML file, and beside it a null pair (the model before fine-tuning against its copy),
    other seeds, and other losses if named; then writes one report on all of them. Finished runs are kept.
    """
    quiet_libraries()
    import attrs

    from ..analysis.spurious import spurious as run
    from ..reports import save_page
    from ..training import RunConfig

    with user_errors(), process_group():
        chosen = RunConfig.from_toml(config, settings=dict(map(one_value, settings)))
        chosen = attrs.evolve(chosen, output=output or chosen.output)
        reports = run(
            chosen, losses=[_table(text) for text in losses], seeds=seeds, num_tokens=tokens, quiet=quiet, say=say
        )
        for report in reports:
            say(f"{report.title}: {report.summary}")
        say(f"report: {save_page(reports, chosen.output, title='Genuine or spurious')}")


def _table(text: str) -> dict[str, object]:
    try:
        found = json.loads(text) if text.lstrip().startswith("{") else {"name": text}
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"{text} is not valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise click.BadParameter(f"{text} is not a table of options")
    return found
