"""What commands print."""

from __future__ import annotations

import click

from ..errors import printable


def say(text: str) -> None:
    """All output goes through here: names from files and plugins of others may hold what steers a terminal."""
    click.echo(printable(text))
