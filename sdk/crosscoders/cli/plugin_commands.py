"""Commands of plugins beside our own: listed without importing them, imported when somebody calls one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any

import click

from ..errors import CrosscodersError, PluginError, printable
from ..plugins.isolation import worded
from ..plugins.offers import Offer
from ..plugins.registry import get_registry
from ..plugins.specs import CommandSpec
from .boundary import user_errors


class Commands(click.Group):
    """A group with commands of its own and, by name, those of plugins.

    Where a plugin's command is called as ours or as another plugin's, it is called by `plugin:name`.
    """

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        offers = self._offered()
        if cmd_name in offers:
            with user_errors():
                return guarded(offers[cmd_name], cmd_name)
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            # The command may be one of a plugin that could not be loaded.
            aside = "".join(f"\n  not loaded: {printable(str(one))}" for one in get_registry().set_aside)
            raise click.UsageError(error.message + aside, ctx) from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *self._offered()]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        room = formatter.width - 6 - max(map(len, self.list_commands(ctx)))
        own = {name: self.commands[name].get_short_help_str(room) for name in super().list_commands(ctx)}
        theirs = {name: f"{offer.spec.summary} ({offer.provider.plugin})" for name, offer in self._offered().items()}
        for title, listed in (("Commands", own), ("Commands of plugins", theirs)):
            if listed:
                with formatter.section(title):
                    formatter.write_dl([(name, printable(text).strip()) for name, text in listed.items()])

    def _offered(self) -> dict[str, Offer[CommandSpec]]:
        with user_errors():
            offers = get_registry().commands.offers
        taken = [*self.commands, *(offer.spec.name for offer in offers)]
        return {
            offer.spec.name if taken.count(offer.spec.name) == 1 else offer.qualified_name: offer for offer in offers
        }


def guarded(offer: Offer[CommandSpec], name: str) -> click.Command:
    """The command of a plugin under `name`; what it raises is a line that names the plugin. `PluginError` if there is
    none."""
    command: click.Command = copy(offer.reference())
    run = command.invoke

    def invoke(ctx: click.Context) -> Any:
        with user_errors(), _failures(offer):
            return run(ctx)

    command.name = name
    command.invoke = invoke  # type: ignore[method-assign]
    return command


@contextmanager
def _failures(offer: Offer[CommandSpec]) -> Iterator[None]:
    try:
        yield
    except (CrosscodersError, click.ClickException, click.exceptions.Exit, click.Abort, OSError):
        raise
    except Exception as error:
        if os.environ.get("CROSSCODERS_TRACEBACK"):
            raise
        raise PluginError(f"{offer} failed: {worded(error)} (CROSSCODERS_TRACEBACK=1 shows where)") from error
