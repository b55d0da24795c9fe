"""How commands are told which models and tokens a crosscoder is studied with, and the study that they mean."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..errors import ConfigError, shown
from .output import say
from .places import opened

if TYPE_CHECKING:
    from ..analysis.study import Study

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_TOKENS = 65_536

MODEL_OPTIONS = (
    click.option(
        "--models",
        multiple=True,
        metavar="KEY=MODEL",
        help="Another model in the place of the recorded one: a Hub id, a folder, or a JSON object with name and "
        "options; repeatable.",
    ),
    click.option("--trust-recipe", is_flag=True, help="Read the local files that the crosscoder's recipe names."),
    click.option(
        "--device", default="auto", show_default=True, help="Where to compute; auto takes a GPU if there is one."
    ),
)
TOKEN_OPTIONS = (
    click.option(
        "--tokens",
        multiple=True,
        metavar="NUMBER|SOURCE",
        help=f"How many held-out tokens to read [default: {DEFAULT_TOKENS}], or where they come from instead of the "
        "recorded source: a JSON object with name and options, or a JSON or TOML file of it (a run's config too); may "
        "be given twice, for both.",
    ),
    click.option("--seed", default=0, show_default=True),
)


def model_options(command: F) -> F:
    """The options of a command that runs a crosscoder's models."""
    return _with(command, MODEL_OPTIONS)


def study_options(command: F) -> F:
    """Those, and the options of a command that reads a study's tokens."""
    return _with(command, (*MODEL_OPTIONS, *TOKEN_OPTIONS))


def _with(command: F, options: tuple[Callable[[F], F], ...]) -> F:
    for option in reversed(options):
        command = option(command)
    return command


latents_option = click.option(
    "--latents",
    "chosen",
    default="all",
    show_default=True,
    metavar="all|1,5,7-9|specific:N",
    help="Which latents: by number, or the N whose decoder norms lie most at one model or site.",
)


def study_of(name: str, options: dict[str, Any], *, reads_tokens: bool = True) -> Study:
    """The study that a command's options mean, which says first what it reads.

    `options` are those of `source_options`, `quiet_option`, and `study_options` or `model_options`. A command with the
    latter `reads_tokens` only where scales are estimated on them, and looks at and acts on what it is given.
    """
    from ..analysis.study import Study
    from ..devices import find_device
    from ..models.sample import Documents

    crosscoder = opened(name, options, device=str(find_device(options["device"], option="--device")))
    tokens = options["tokens"] if reads_tokens else ()
    numbers = [int(text) for text in tokens if text.isdigit()]
    sources: list[Any] = [_source(text) for text in tokens if not text.isdigit()]
    if len(numbers) > 1 or len(sources) > 1:
        raise ConfigError("--tokens takes one number and one source at most")
    estimated = options["scales"] == ("estimate",)
    without = not reads_tokens and not estimated
    if without:
        sources = [Documents([])]
    study = Study.of(
        crosscoder,
        models=dict(map(_model, options["models"])),
        tokens=sources[0] if sources else None,
        num_tokens=numbers[0] if numbers else DEFAULT_TOKENS,
        seed=options["seed"] if reads_tokens else 0,
        trust_recipe=options["trust_recipe"],
        quiet=options["quiet"],
        say=lambda line: None if without and line.startswith("tokens") else say(f"reads {line}"),
    )
    if estimated:
        study.estimate_normalisation()
    return study


def _model(text: str) -> tuple[str, Any]:
    key, equals, model = text.partition("=")
    if not equals or not key or not model:
        raise click.BadParameter(f"'{text}' should be KEY=ID_OR_FOLDER")
    return key, json_value(model) if model.lstrip().startswith("{") else model


def _source(text: str) -> Any:
    """A token source from JSON, or from a file whose whole or whose `tokens` table it is."""
    if text.lstrip().startswith("{"):
        return json_value(text)
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


def json_value(text: str) -> Any:
    """A value of an option that is written as JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"{shown(text)} is not valid JSON: {error}") from error
