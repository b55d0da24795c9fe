"""Rules of commands."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import ClassVar

import click
import pytest
from click.testing import CliRunner, Result

from ...cli import main
from ...cli.plugin_commands import guarded
from ...plugins.offers import Offer
from ...plugins.registry import Registry
from ...plugins.specs import CommandSpec
from .base import Suite


class CommandSuite(Suite):
    """Rules of a command that a plugin adds to the command line."""

    name: ClassVar[str]
    """The name of the command."""
    arguments: ClassVar[Sequence[str]] = ()
    """What to call it with, so that it succeeds; a fixture `arguments` may take its place."""

    @pytest.fixture(name="arguments")
    def _arguments(self) -> Sequence[str]:
        return self.arguments

    @pytest.fixture
    def offer(self, registry: Registry) -> Offer[CommandSpec]:
        """The record, with its plugin."""
        return registry.commands[self.name]

    def _called(self, offer: Offer[CommandSpec], *arguments: str) -> Result:
        return CliRunner().invoke(guarded(offer, self.name), list(arguments))

    def test_it_is_not_called_as_one_of_ours(self, offer: Offer[CommandSpec]) -> None:
        assert offer.spec.name not in main.commands

    def test_it_has_a_summary(self, offer: Offer[CommandSpec]) -> None:
        assert offer.spec.summary

    def test_listing_it_imports_neither_its_code_nor_torch(self, offer: Offer[CommandSpec]) -> None:
        module = offer.spec.build.target.partition(":")[0]
        code = (
            "import sys; from crosscoders.cli import main; from click.testing import CliRunner; "
            "found = CliRunner().invoke(main, ['--help']); assert found.exit_code == 0, found.output; "
            f"assert not {{'torch', {module!r}}} & set(sys.modules), 'imported'; print(found.output)"
        )
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stderr

    def test_it_has_help(self, offer: Offer[CommandSpec]) -> None:
        found = self._called(offer, "--help")
        assert found.exit_code == 0 and f"Usage: {self.name}" in found.output, found.output

    def test_it_does_its_work(self, offer: Offer[CommandSpec], arguments: Sequence[str]) -> None:
        found = self._called(offer, *arguments)
        assert found.exit_code == 0, (found.output, found.exception)

    def test_an_unknown_option_is_refused_in_words(self, offer: Offer[CommandSpec]) -> None:
        found = self._called(offer, "--no-such-option")
        assert found.exit_code == click.UsageError.exit_code and "no-such-option" in found.output
        assert isinstance(found.exception, SystemExit), json.dumps(repr(found.exception))
