"""The commands and their options."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from ..errors import CrosscodersError
from .places import opened, pairs, source_options


@contextmanager
def errors_as_lines() -> Iterator[None]:
    """A user's error is one clear line and exit code 1, not a traceback."""
    try:
        yield
    except CrosscodersError as error:
        if os.environ.get("CROSSCODERS_TRACEBACK"):
            raise
        raise click.ClickException(str(error)) from error
    finally:
        _part_processes()


def _part_processes() -> None:
    """Under a launcher, say good-bye to the other processes."""
    if "torch.distributed" in sys.modules:
        distributed = sys.modules["torch.distributed"]
        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()


def _set_up_libraries() -> None:
    """Quiet those that load models, whose progress bars and warnings would bury our own output."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TQDM_MININTERVAL", "0.5")
    # On a CPU, small memory pages cost up to half of a training step.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        from transformers.utils import logging
    except ImportError:
        return
    logging.set_verbosity_error()
    logging.disable_progress_bar()


@click.group()
@click.version_option(package_name="crosscoders")
def main() -> None:
    """Train, share, load and analyse sparse crosscoders."""


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plugins(as_json: bool) -> None:
    """List plugins, what they offer, and those set aside with the reason."""
    from ..plugins.registry import get_registry

    with errors_as_lines():
        listing = get_registry().listing()
    click.echo(json.dumps(listing, indent=2) if as_json else _listing_text(listing))


def _listing_text(listing: dict[str, Any]) -> str:
    lines = []
    for plugin in listing["plugins"]:
        lines.append(f"{plugin['plugin']}  ({plugin['distribution']} {plugin['version']})")
        lines += [f"  {c['kind']:17s} {c['name']:20s} {c['summary']}" for c in plugin["components"]]
    if listing["set_aside"]:
        lines.append("set aside:")
        lines += [f"  {p['plugin']}  ({p['distribution']} {p['version']})  {p['reason']}" for p in listing["set_aside"]]
    return "\n".join(lines)


@main.command()
@click.option("--base", default="tiny-pair/base", show_default=True, help="Model before: Hub id or folder.")
@click.option("--chat", default="tiny-pair/chat", show_default=True, help="Model after: Hub id or folder.")
@click.option("--layer", default=-1, show_default=True, help="Layer to compare; -1 takes the middle one.")
@click.option("--latents", default=2048, show_default=True, help="Width of the crosscoder.")
@click.option("--k", default=32, show_default=True, help="Active latents per token.")
@click.option("--tokens", default=450_000, show_default=True, help="Tokens to train on.")
@click.option("--study-tokens", default=65_536, show_default=True, help="Held-out tokens to analyse on.")
@click.option("--prompts", default=200, show_default=True, help="Questions that amplification answers.")
@click.option("--seed", default=0, show_default=True)
@click.option("--output", default="demo", show_default=True, type=click.Path(path_type=Path))
def demo(
    base: str,
    chat: str,
    layer: int,
    latents: int,
    k: int,
    tokens: int,
    study_tokens: int,
    prompts: int,
    seed: int,
    output: Path,
) -> None:
    """Train on a base/chat pair, analyse the difference, write a report."""
    _set_up_libraries()
    from ..demo import DemoConfig
    from ..demo import demo as run

    with errors_as_lines():
        run(
            DemoConfig(
                base=base,
                chat=chat,
                layer=layer,
                num_latents=latents,
                k=k,
                num_tokens=tokens,
                study_tokens=study_tokens,
                num_prompts=prompts,
                seed=seed,
                output=output,
            ),
            say=click.echo,
        )


@main.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), help="Write here instead of where the config says.")
@click.option("--cache", type=click.Path(path_type=Path), help="Read activations from here: see `harvest`.")
@click.option("--fresh", is_flag=True, help="Start anew even where a checkpoint could be resumed.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def train(config: Path, output: Path | None, cache: Path | None, fresh: bool, quiet: bool) -> None:
    """Train the run of a TOML file, going on from its newest checkpoint if there is one."""
    _set_up_libraries()
    import attrs

    from ..training import RunConfig
    from ..training import train as run

    with errors_as_lines():
        chosen = RunConfig.from_toml(config)
        chosen = attrs.evolve(chosen, output=output or chosen.output, cache=cache or chosen.cache)
        crosscoder = run(chosen, resume=not fresh, quiet=quiet)
        _say_metrics(crosscoder)
        click.echo(f"saved: {chosen.output / 'crosscoder'}")


@main.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--tokens", default=0, help="Training tokens; without, as many as the run of the file needs.")
@click.option("--verify", is_flag=True, help="Only compare what is there with its checksums.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def harvest(config: Path, folder: Path, tokens: int, verify: bool, quiet: bool) -> None:
    """Write the activations that the run of a TOML file trains on into FOLDER, to be read by `train --cache FOLDER`.

    Goes on where it was stopped. Run it by `accelerate launch -m crosscoders harvest` to share the work.
    """
    _set_up_libraries()
    from ..activations import verify_cache
    from ..training import RunConfig
    from ..training import harvest as run

    with errors_as_lines():
        if not verify:
            run(RunConfig.from_toml(config), folder, num_tokens=tokens, quiet=quiet)
        click.echo(f"{verify_cache(folder)} shards, all as their checksums say" if verify else f"harvested: {folder}")


@main.command()
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
    """Train several crosscoders from one harvest: one for each combination of values."""
    _set_up_libraries()
    import attrs

    from ..training import RunConfig
    from ..training import sweep as run

    with errors_as_lines():
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


@main.command()
@click.argument("name")
@click.option("--analysis", "analyses", multiple=True, help="Name, or a JSON object with name and options; repeatable.")
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="KEY=ID",
    help="A model where the checkpoint records none: Hub id, folder, or a JSON object with name and options.",
)
@click.option("--source", default="", help="Token source where none is recorded: name, or a JSON object.")
@click.option("--tokens", default=65_536, show_default=True, help="Held-out tokens to analyse on.")
@click.option("--seed", default=0, show_default=True)
@click.option("--output", default="analysis", show_default=True, type=click.Path(path_type=Path))
@source_options
def analyse(
    name: str,
    analyses: tuple[str, ...],
    models: tuple[str, ...],
    source: str,
    tokens: int,
    seed: int,
    output: Path,
    **options: Any,
) -> None:
    """Analyse a crosscoder (folder or Hub id, of any known format) and write report.html and report.json."""
    _set_up_libraries()
    from ..analysis.study import Study
    from ..analysis.study import analyse as run
    from ..reports import save_page

    with errors_as_lines():
        crosscoder = opened(name, options)
        chosen = [_analysis(text) for text in analyses] or ["decoder_norms", "latent_scaling"]
        recorded = crosscoder.info is not None and "tokens" in crosscoder.info.recipe
        text = source or ("" if recorded else "python_library")
        study = Study.of(
            crosscoder,
            models={key: _model(value) for key, value in pairs(models, "--model").items()},
            tokens=_component(text) if text else None,
            num_tokens=tokens,
            seed=seed,
        )
        if options["scales"] == ("estimate",):
            study.estimate_normalisation()
        reports = run(crosscoder, chosen, study=study)
        for report in reports:
            click.echo(f"{report.title}: {report.summary}")
        click.echo(f"report: {save_page(reports, output, title=f'Crosscoder {name}')}")


def _model(text: str) -> Any:
    return _analysis(text) if text.lstrip().startswith("{") else {"name": "transformers", "model": text}


def _component(text: str) -> Any:
    return _analysis(text) if text.lstrip().startswith("{") else {"name": text}


def _analysis(text: str) -> Any:
    if not text.lstrip().startswith("{"):
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise click.BadParameter(f"{text} is no JSON: {error}") from error


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("repo_id")
@click.option("--private", is_flag=True, help="Make a new repository private.")
@click.option("--tag", default="", help="Tag the commit.")
@click.option("--branch", default="", help="Push to this branch, made if it is missing.")
@click.option("--pull-request", is_flag=True, help="Open a pull request instead of committing.")
@click.option("--licence", default="", help="Licence in the card, such as apache-2.0.")
@click.option("--dataset", "datasets", multiple=True, help="Dataset in the card; repeatable.")
@click.option("--base-model", "base_models", multiple=True, help="Base model in the card; repeatable.")
@click.option("--message", default="Upload crosscoder", show_default=True, help="Commit message.")
def push(
    folder: Path,
    repo_id: str,
    private: bool,
    tag: str,
    branch: str,
    pull_request: bool,
    licence: str,
    datasets: tuple[str, ...],
    base_models: tuple[str, ...],
    message: str,
) -> None:
    """Push a saved crosscoder to the Hub."""
    from ..checkpoints.hub import push_folder

    with errors_as_lines():
        url = push_folder(
            folder,
            repo_id,
            private=private,
            tag=tag,
            branch=branch,
            create_pr=pull_request,
            licence=licence,
            datasets=datasets,
            base_models=base_models,
            commit_message=message,
        )
        click.echo(url)


@main.command()
@click.argument("repo_id")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--revision", help="Branch, tag or commit.")
@click.option("--subfolder", default="", help="Folder in the repository.")
def pull(repo_id: str, folder: Path, revision: str | None, subfolder: str) -> None:
    """Fetch a crosscoder from the Hub into a new folder."""
    import shutil

    from ..checkpoints.hub import download
    from ..errors import ConfigError
    from ..files import whole_folder

    with errors_as_lines():
        if folder.exists():
            raise ConfigError(f"{folder} exists already; name a new folder")
        downloaded = download(repo_id, revision=revision, subfolder=subfolder) / subfolder
        with whole_folder(folder) as partial:
            shutil.copytree(downloaded, partial, dirs_exist_ok=True)
        click.echo(str(folder))


@main.command()
@click.argument("name")
@click.option("--revision", help="Branch, tag or commit on the Hub.")
@click.option("--json", "as_json", is_flag=True, help="Print config.json.")
def info(name: str, revision: str | None, as_json: bool) -> None:
    """Show what a saved crosscoder is, without loading its weights or models."""
    from ..checkpoints.checkpoint import read_config
    from ..checkpoints.foreign import inspection_data, inspection_text
    from ..checkpoints.pretrained import Place, open_pretrained

    with errors_as_lines():
        found = open_pretrained(Place(name=name, revision=revision))
        if not isinstance(found, Path):
            click.echo(json.dumps(inspection_data(found), indent=2) if as_json else inspection_text(found, name))
            return
        config = read_config(found)
    if as_json:
        click.echo(json.dumps(config, indent=2))
        return
    architecture = config["architecture"]
    click.echo(f"{config['num_latents']} latents, architecture {architecture['name']}, gate {config['gate']['name']}")
    click.echo(f"made by {architecture['distribution']} {architecture['version']} (plugin '{architecture['plugin']}')")
    for site in config["sites"]:
        explained = config["metrics"].get("explained_variance", {}).get(site["name"])
        tail = f"   explained variance {explained:.4f}" if explained is not None else ""
        click.echo(f"site {site['name']}, width {site['width']}{tail}")
    if "origin" in config:
        origin = config["origin"]
        click.echo(f"came from {origin.get('repository', origin.get('folder'))}, format {origin.get('format')}")
    for key, model in config["models"].items():
        click.echo(f"model {key}: {model.get('model')} at {model.get('revision')}")
    if config["metrics"]:
        click.echo(f"L0 {config['metrics']['l0']:.2f}")
