"""Training and harvesting: one run, the activations of one, or several runs from one harvest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .boundary import process_group, quiet_libraries, user_errors
from .options import config_argument, one_value, quiet_option, set_option, several_values, training_options
from .output import say

if TYPE_CHECKING:
    from ..training import RunConfig


@click.command()
@config_argument
@set_option
@training_options
def train(
    config: Path, settings: tuple[str, ...], output: Path | None, cache: Path | None, fresh: bool, quiet: bool
) -> None:
    """Train as a TOML file says, resuming from the newest checkpoint if there is one.

    Ctrl-C (or SIGTERM) finishes the step and writes a checkpoint; a second one stops at once.
    """
    quiet_libraries()
    from ..training import train as run

    with user_errors(hint=_hint(fresh)), process_group():
        chosen = _config(config, output, cache, settings, quiet)
        crosscoder = run(chosen, resume=not fresh, quiet=quiet)
        _say_metrics(crosscoder)
        say(f"saved: {chosen.output / 'crosscoder'}")


@click.command()
@config_argument
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--tokens", default=0, help="Training tokens; without, as many as the run of the file needs.")
@click.option("--verify", is_flag=True, help="Only compare what is there with its checksums.")
@set_option
@quiet_option
def harvest(config: Path, folder: Path, tokens: int, verify: bool, settings: tuple[str, ...], quiet: bool) -> None:
    """Write the activations that a TOML file's run trains on into FOLDER, for `train --cache FOLDER`.

    An interrupted harvest resumes. Use `accelerate launch -m crosscoders harvest` to split the work over processes.
    """
    quiet_libraries()
    from ..activations import verify_cache
    from ..training import harvest as run

    with user_errors(), process_group():
        if not verify:
            run(_config(config, None, None, settings, quiet), folder, num_tokens=tokens, quiet=quiet)
        say(f"{verify_cache(folder)} shards, all checksums match" if verify else f"harvested: {folder}")


@click.command()
@config_argument
@click.option(
    "--set",
    "settings",
    multiple=True,
    required=True,
    metavar="KEY=VALUE,VALUE,...",
    help="Values of one key, e.g. loss.k=16,32,64; repeatable, for all combinations.",
)
@training_options
def sweep(
    config: Path, settings: tuple[str, ...], output: Path | None, cache: Path | None, fresh: bool, quiet: bool
) -> None:
    """Train several crosscoders from one harvest, one for each combination of values.

    Ends in a table, which `sweep.json` in the output folder has too, and in `report.html`, which draws explained
    variance against L0 and against operations.
    """
    quiet_libraries()
    from ..training import sweep as run
    from ..training.sweep import SUMMARY
    from ..training.sweep_report import sweep_rows, sweep_table

    with user_errors(hint=_hint(fresh)), process_group():
        chosen = _config(config, output, cache, (), quiet)
        values = dict(map(several_values, settings))
        found = run(chosen, values, resume=not fresh, quiet=quiet)
        for folder in found:
            say(f"saved: {folder / 'crosscoder'}")
        for line in sweep_table(sweep_rows(found, values)):
            say(line)
        say(f"table: {chosen.output / SUMMARY}")
        say(f"figures: {chosen.output / 'report.html'}")


def _config(path: Path, output: Path | None, cache: Path | None, settings: tuple[str, ...], quiet: bool) -> RunConfig:
    """The config that a command means; says what comes next, since models can take minutes to load."""
    import attrs

    from ..training import RunConfig

    config = RunConfig.from_toml(path, settings=dict(map(one_value, settings)))
    config = attrs.evolve(config, output=output or config.output, cache=cache or config.cache)
    if not quiet:
        what = f"activations from {config.cache}" if config.cache else f"loading the models {', '.join(config.models)}"
        say(f"sites {', '.join(config.sites)}; {what}")
    return config


def _hint(fresh: bool) -> str:
    return " (without --fresh)" if fresh else ""


def _say_metrics(crosscoder: Any) -> None:
    metrics = crosscoder.info.metrics
    if not metrics:
        return
    for site, value in metrics["explained_variance"].items():
        why = metrics.get("undefined", {}).get(site)
        say(f"explained variance  {site:30s} {f'undefined: {why}' if why else f'{value:.4f}'}")
    say(f"L0 {metrics['l0']:.2f}   silent {metrics['silent_share']:.1%}   on {metrics['num_tokens']} held-out tokens")
