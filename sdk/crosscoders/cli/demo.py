"""The demo."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import click

from ..demo.config import DemoConfig
from .boundary import process_group, quiet_libraries, user_errors
from .options import Command
from .output import say
from .places import pairs

DEFAULTS = {field.name: field.default for field in attrs.fields(DemoConfig)}


def _option(flag: str, name: str, text: str = "", **more: Any) -> Callable[[Command], Command]:
    """An option for a field of `DemoConfig`, with its default."""
    return click.option(flag, name, default=DEFAULTS[name], show_default=True, help=text, **more)


@click.command()
@_option("--base", "base", "Model before: Hub id or folder.")
@_option("--chat", "chat", "Model after: Hub id or folder.")
@_option("--layer", "layer", "Layer to compare; -1 takes the middle one.")
@_option("--latents", "num_latents", "Width of the crosscoder.")
@_option("--k", "k", "Active latents per token.")
@_option("--tokens", "num_tokens", "Tokens to train on.")
@_option("--study-tokens", "study_tokens", "Held-out tokens to analyse on.")
@_option("--prompts", "num_prompts", "Questions that amplification answers.")
@click.option(
    "--pattern", "patterns", multiple=True, metavar="NAME=REGEX", help="A behaviour to look for in answers; repeatable."
)
@click.option("--full", is_flag=True, help="More strengths and a control, and a list of the most chat-leaning latents.")
@_option("--seed", "seed")
@_option("--output", "output", type=click.Path(path_type=Path))
def demo(patterns: tuple[str, ...], **options: Any) -> None:
    """Train a crosscoder on a base/chat pair, analyse the difference, and write a report."""
    quiet_libraries()
    from ..demo import demo as run

    with user_errors(), process_group():
        run(DemoConfig(patterns=pairs(patterns, "--pattern"), **options), say=say)
