"""Crosscoders on the Hub and in folders: push, pull, look at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .boundary import user_errors
from .output import say
from .places import local_folder


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("repo_id")
@click.option("--private", is_flag=True, help="Make a new repository private.")
@click.option("--tag", default="", help="Tag the commit.")
@click.option("--branch", default="", help="Push to this branch, made if it is missing.")
@click.option("--pull-request", "create_pr", is_flag=True, help="Open a pull request instead of committing.")
@click.option("--licence", default="", help="Licence in the card, such as apache-2.0.")
@click.option("--dataset", "datasets", multiple=True, help="Dataset in the card; repeatable.")
@click.option("--base-model", "base_models", multiple=True, help="Base model in the card; repeatable.")
@click.option("--message", "commit_message", default="Upload crosscoder", show_default=True, help="Commit message.")
@click.option(
    "--dashboard",
    type=click.Path(path_type=Path),
    help="The folder of a dashboard, which goes along; the card links to it.",
)
@click.option(
    "--dashboard-space",
    default="",
    metavar="OWNER/NAME",
    help="Put the dashboard into this static Space, made if it is missing, where it opens in a browser.",
)
def push(folder: Path, repo_id: str, **options: Any) -> None:
    """Push a saved crosscoder to the Hub."""
    from ..checkpoints.hub import Publication, push_folder

    with user_errors():
        say(push_folder(folder, repo_id, Publication(**options)))


@click.command()
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

    with user_errors():
        if folder.exists():
            raise ConfigError(f"{folder} exists already; name a new folder")
        downloaded = download(repo_id, revision=revision, subfolder=subfolder) / subfolder
        with whole_folder(folder) as partial:
            shutil.copytree(downloaded, partial, dirs_exist_ok=True)
        say(str(folder))


@click.command()
@click.argument("name")
@click.option("--revision", help="Branch, tag or commit on the Hub.")
@click.option("--subfolder", default="", help="Folder in the repository; NAME may also be owner/name:folder.")
@click.option("--json", "as_json", is_flag=True, help="Print config.json.")
def info(name: str, revision: str | None, subfolder: str, as_json: bool) -> None:
    """Describe a saved crosscoder without loading its weights or models; of the Hub only config.json is fetched."""
    from ..checkpoints.description import by_provider, number_at
    from ..checkpoints.inspection import inspection_data, inspection_text
    from ..checkpoints.pretrained import Place, describe_pretrained

    with user_errors():
        place = Place(name=str(local_folder(name) or name), subfolder=subfolder, revision=revision)
        config, answers = describe_pretrained(place)
        if not isinstance(config, dict):
            given = [
                *(["--revision", revision] if revision else []),
                *(["--subfolder", subfolder] if subfolder else []),
            ]
            plan = config.inspect(answers)
            data = json.dumps(inspection_data(plan, answers), indent=2) if as_json else ""
            say(data or inspection_text(plan, name, answers, given))
            return
    if as_json:
        say(json.dumps(config, indent=2))
        return
    architecture = config["architecture"]
    say(f"{config['num_latents']} latents, architecture {architecture['name']}, gate {config['gate']['name']}")
    say(f"made by {architecture['distribution']} {architecture['version']} (plugin '{architecture['plugin']}')")
    for (distribution, version, plugin), components in by_provider(config.get("needs", [])):
        say(f"needs {distribution} {version} (plugin '{plugin}'): {components}")
    for site in config["sites"]:
        explained = number_at(config["metrics"], "explained_variance", site["name"])
        tail = f"   explained variance {explained:.4f}" if explained is not None else ""
        for label, formula in (("CE", "(ce_mean-ce_spliced)/(ce_mean-ce_clean)"), ("KL", "1-kl_spliced/kl_mean")):
            recovered = number_at(config["metrics"], "spliced", site["name"], formula)
            if recovered is not None:
                tail += f"   {label} recovered {recovered:.4f} (against mean ablation)"
        say(f"site {site['name']}, width {site['width']}{tail}")
    if "origin" in config:
        origin = config["origin"]
        say(f"came from {origin.get('repository', origin.get('folder'))}, format {origin.get('format')}")
    for key, model in config["models"].items():
        say(f"model {key}: {model.get('model')} at {model.get('revision')}")
    l0 = number_at(config["metrics"], "l0")
    if l0 is not None:
        say(f"L0 {l0:.2f}")
    further = config["metrics"].get("further")
    for metric, values in further.items() if isinstance(further, dict) else ():
        for part in values if isinstance(values, dict) else ():
            value = number_at(values, part)
            say(f"{metric}: {part} {'undefined' if value is None else f'{value:.4g}'}")
    if stopped := config.get("reading", {}).get("stopped"):
        say(f"training was {stopped}")
