"""Options that several commands have, and values given as KEY=VALUE."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

config_argument = click.argument("config", type=click.Path(path_type=Path))
quiet_option = click.option("--quiet", is_flag=True, help="No progress bars.")
set_option = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Another value for one key, e.g. training.lr=3e-4, a string or as in JSON; repeatable.",
)


def training_options(command: Command) -> Command:
    """The options of every command that trains."""
    for option in (
        quiet_option,
        click.option("--fresh", is_flag=True, help="Start anew even where a checkpoint could be resumed."),
        click.option("--cache", type=click.Path(path_type=Path), help="Read activations from here: see `harvest`."),
        click.option("--output", type=click.Path(path_type=Path), help="Write here instead of where the config says."),
    ):
        command = option(command)
    return command


def one_value(text: str) -> tuple[str, Any]:
    """KEY=VALUE."""
    key, value = _parts(text, "KEY=VALUE")
    try:
        return key, json.loads(value)
    except (ValueError, RecursionError):
        return key, value


def several_values(text: str) -> tuple[str, list[Any]]:
    """KEY=VALUE,VALUE,..."""
    key, values = _parts(text, "KEY=VALUE,VALUE,...")
    try:
        return key, json.loads(f"[{values}]")
    except (ValueError, RecursionError):
        return key, values.split(",")


def _parts(text: str, form: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise click.BadParameter(f"'{text}' should be {form}")
    return key, value
