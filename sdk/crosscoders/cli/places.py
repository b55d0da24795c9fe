"""How commands are told which checkpoint: options of those that take one, and the crosscoder that they mean."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..checkpoints.blueprint import Answers
    from ..checkpoints.pretrained import Place
    from ..crosscoder.module import Crosscoder

F = TypeVar("F", bound=Callable[..., Any])

OPTIONS = (
    click.option("--format", "format_name", default="", help="The checkpoint format, where files fit more than one."),
    click.option("--revision", help="Branch, tag or commit on the Hub."),
    click.option("--subfolder", default="", help="Folder in the repository; NAME may also be owner/name:folder."),
    click.option("--site", "sites", multiple=True, metavar="SLOT=SITE", help="Which site a slot is; repeatable."),
    click.option(
        "--normalisation",
        "scales",
        multiple=True,
        metavar="none|estimate|SITE=SCALE",
        help="What activations are multiplied by, where no file says it; repeatable.",
    ),
    click.option("--answer", "answers", multiple=True, metavar="KEY=VALUE", help="What else is asked; repeatable."),
    click.option("--local-files-only", is_flag=True, help="Only what the Hub cache has."),
)
"""How a checkpoint is named and what its files do not say, alike in all commands that take one."""


def source_options(command: F) -> F:
    """Add `OPTIONS` to a command."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def local_folder(name: str) -> Path | None:
    """The folder of that name; None where it may be a Hub id. `ConfigError` where only a folder can be meant."""
    from ..checkpoints.hub import is_folder

    folder = Path(name)
    if is_folder(name):
        return folder
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise ConfigError(f"{name} is a file, not a folder" if folder.exists() else f"there is no folder {name}")
    return None


def pairs(texts: tuple[str, ...], option: str) -> dict[str, str]:
    """Texts KEY=VALUE of a repeated option."""
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise click.BadParameter(f"{option} {text} should be KEY=VALUE")
        found[key] = value
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def placed(name: str, options: dict[str, Any]) -> tuple[Place, Answers]:
    """Where the checkpoint is, and the answers: from a command's options."""
    from ..checkpoints.pretrained import Place, make_answers

    scales: Any = None
    if options["scales"] in (("none",), ("estimate",)):
        scales = options["scales"][0]
    elif options["scales"]:
        try:
            scales = {key: float(value) for key, value in pairs(options["scales"], "--normalisation").items()}
        except ValueError as error:
            raise click.BadParameter(f"--normalisation takes numbers: {error}") from error
    others = {key: _value(value) for key, value in pairs(options["answers"], "--answer").items()}
    answers = make_answers(pairs(options["sites"], "--site"), scales, others)
    place = Place(
        name=name,
        subfolder=options["subfolder"],
        revision=options["revision"],
        local_files_only=options["local_files_only"],
    )
    return place, answers


def given(options: dict[str, Any]) -> list[str]:
    """The options that a command was called with, as words, for another command about the same checkpoint."""
    words = ["--local-files-only"] if options["local_files_only"] else []
    for option, key in (("--format", "format_name"), ("--revision", "revision"), ("--subfolder", "subfolder")):
        words += [option, options[key]] if options[key] else []
    for option, key in (("--site", "sites"), ("--normalisation", "scales"), ("--answer", "answers")):
        words += [word for text in options[key] for word in (option, text)]
    return words


def opened(name: str, options: dict[str, Any], *, device: str = "cpu") -> Crosscoder:
    """The crosscoder that a command's name and options mean."""
    from ..checkpoints.pretrained import load_pretrained

    place, answers = placed(name, options)
    return load_pretrained(place, answers, format=options["format_name"], device=device)
