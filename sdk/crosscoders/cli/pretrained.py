"""Commands about checkpoints that others have trained: inspect, convert, pretrained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import click

from .boundary import user_errors
from .output import say
from .places import given, opened, placed, source_options


@click.command()
@click.argument("name")
@source_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inspect(name: str, as_json: bool, **options: Any) -> None:
    """Say what a checkpoint is, ours or another library's: what it holds, what must be answered, what to run next.

    NAME is a folder, a Hub id, owner/name:folder, or a name of `crosscoders pretrained`. Headers are read, not weights.
    """
    from ..checkpoints.foreign import Foreign
    from ..checkpoints.inspection import inspection_data, inspection_text
    from ..checkpoints.pretrained import open_pretrained

    with user_errors():
        place, answers = placed(name, options)
        found, answers = open_pretrained(place, answers, format=options["format_name"])
        if not isinstance(found, Foreign):
            from ..checkpoints.checkpoint import read_config

            config = read_config(found)
            say(json.dumps(config, indent=2) if as_json else _own_text(name, config))
            return
        plan = found.inspect(answers)
        if as_json:
            say(json.dumps(inspection_data(plan, answers), indent=2))
        else:
            say(inspection_text(plan, name, answers, given(options)))


def _own_text(name: str, config: dict[str, Any]) -> str:
    lines = [f"{name}: a crosscoder of this library, {config['num_latents']} latents, gate {config['gate']['name']}"]
    lines += [f"site {site['name']}, width {site['width']}" for site in config["sites"]]
    if "origin" in config:
        origin = config["origin"]
        lines.append(f"came from {origin.get('repository', origin.get('folder'))}, format {origin.get('format')}")
    return "\n".join([*lines, f"next: crosscoders info {name}"])


@click.command()
@click.argument("name")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--to", "target", default="crosscoders", show_default=True, help="Our own format, or another's name.")
@click.option("--check", is_flag=True, help="Only say what would be changed or lost.")
@source_options
def convert(name: str, folder: Path, target: str, check: bool, **options: Any) -> None:
    """Read a checkpoint of any known format and write it into FOLDER, in ours or in another's format."""
    from ..checkpoints.foreign import check_export, export
    from ..errors import ConfigError

    with user_errors():
        if folder.exists():
            raise ConfigError(f"{folder} exists already; name a new folder")
        crosscoder = opened(name, options)
        if target == "crosscoders":
            if not check:
                crosscoder.save_pretrained(folder)
            unknown = ", ".join(crosscoder.normaliser.unknown)
            found_by = "`analyse --normalisation estimate` finds it"
            changes = [f"the normalisation of {unknown} stays unknown; {found_by}"] if unknown else []
        else:
            changes = check_export(crosscoder, target) if check else export(crosscoder, folder, target)
    for text in changes:
        say(f"note: {text}")
    if not check:
        say(f"saved: {folder}")


@click.command()
@click.argument("search", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def pretrained(search: tuple[str, ...], as_json: bool) -> None:
    """List known public releases; SEARCH is a model, a family, or any words of their names."""
    from ..checkpoints.pretrained import pretrained as known

    with user_errors():
        releases = known(" ".join(search))
        if as_json:
            rows = [attrs.asdict(r, filter=lambda a, _: a.name not in ("config", "build")) for r in releases]
            say(json.dumps(rows, indent=2))
            return
        for release in releases:
            where = release.repository + (f":{release.subfolder}" if release.subfolder else "")
            say(f"{release.name:34s} {release.family:26s} {where}")
            facts = [
                ", ".join(release.models),
                release.gate,
                f"L0 {release.l0:g}" if release.l0 else "",
                release.to_answer,
            ]
            say("    " + "; ".join(fact for fact in facts if fact))
        if not releases:
            say(f"no known release has '{' '.join(search)}' in its name, model or family")
        else:
            say("next: crosscoders inspect NAME (a name with … needs --subfolder)")
