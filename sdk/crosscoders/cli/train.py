"""Training and harvesting: one run, the activations of one, or several runs from one harvest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .boundary import quiet_libraries, user_errors


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), help="Write here instead of where the config says.")
@click.option("--cache", type=click.Path(path_type=Path), help="Read activations from here: see `harvest`.")
@click.option("--fresh", is_flag=True, help="Start anew even where a checkpoint could be resumed.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def train(config: Path, output: Path | None, cache: Path | None, fresh: bool, quiet: bool) -> None:
    """Train as a TOML file says, resuming from the newest checkpoint if there is one."""
    quiet_libraries()
    import attrs

    from ..training import RunConfig
    from ..training import train as run

    with user_errors():
        chosen = RunConfig.from_toml(config)
        chosen = attrs.evolve(chosen, output=output or chosen.output, cache=cache or chosen.cache)
        crosscoder = run(chosen, resume=not fresh, quiet=quiet)
        _say_metrics(crosscoder)
        click.echo(f"saved: {chosen.output / 'crosscoder'}")


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--tokens", default=0, help="Training tokens; without, as many as the run of the file needs.")
@click.option("--verify", is_flag=True, help="Only compare what is there with its checksums.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def harvest(config: Path, folder: Path, tokens: int, verify: bool, quiet: bool) -> None:
    """Write the activations that a TOML file's run trains on into FOLDER, for `train --cache FOLDER`.

    An interrupted harvest resumes. Use `accelerate launch -m crosscoders harvest` to split the work over processes.
    """
    quiet_libraries()
    from ..activations import verify_cache
    from ..training import RunConfig
    from ..training import harvest as run

    with user_errors():
        if not verify:
            run(RunConfig.from_toml(config), folder, num_tokens=tokens, quiet=quiet)
        click.echo(f"{verify_cache(folder)} shards, all checksums match" if verify else f"harvested: {folder}")


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--set",
    "settings",
    multiple=True,
    required=True,
    metavar="KEY=VALUE,VALUE,...",
    help="Values of one key, e.g. loss.k=16,32,64; repeatable, for all combinations.",
)
@click.option("--output", type=click.Path(path_type=Path), help="Write here instead of where the config says.")
@click.option("--cache", type=click.Path(path_type=Path), help="Read activations from here: see `harvest`.")
@click.option("--fresh", is_flag=True, help="Start anew even where checkpoints could be resumed.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def sweep(
    config: Path, settings: tuple[str, ...], output: Path | None, cache: Path | None, fresh: bool, quiet: bool
) -> None:
    """Train several crosscoders from one harvest, one for each combination of values."""
    quiet_libraries()
    import attrs

    from ..training import RunConfig
    from ..training import sweep as run

    with user_errors():
        chosen = RunConfig.from_toml(config)
        chosen = attrs.evolve(chosen, output=output or chosen.output, cache=cache or chosen.cache)
        for folder, crosscoder in run(chosen, dict(map(_setting, settings)), resume=not fresh, quiet=quiet).items():
            click.echo(f"saved: {folder / 'crosscoder'}")
            _say_metrics(crosscoder)


def _setting(text: str) -> tuple[str, list[Any]]:
    key, equals, values = text.partition("=")
    if not equals:
        raise click.BadParameter(f"'{text}' should be KEY=VALUE,VALUE,...")
    try:
        return key, json.loads(f"[{values}]")
    except json.JSONDecodeError:
        return key, values.split(",")


def _say_metrics(crosscoder: Any) -> None:
    metrics = crosscoder.info.metrics
    if not metrics:
        return
    for site, value in metrics["explained_variance"].items():
        click.echo(f"explained variance  {site:30s} {value:.4f}")
    click.echo(
        f"L0 {metrics['l0']:.2f}   dead {metrics['dead_share']:.1%}   on {metrics['num_tokens']} held-out tokens"
    )
