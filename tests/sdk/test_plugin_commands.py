"""Commands that plugins add to the command line."""

import sys

import click
import pytest
from click.testing import CliRunner

from crosscoders import CommandSpec, ConfigError, Registry, hookimpl
from crosscoders.cli import main, plugin_commands
from crosscoders.testing import CommandSuite


@click.command()
@click.option("--fault", default="")
def greet(fault):
    """Say hello."""
    if fault == "config":
        raise ConfigError("there is nobody here")
    if fault:
        raise ZeroDivisionError("of nobody")
    click.echo("hello")


def plugin(**commands):
    class Plugin:
        @hookimpl
        def crosscoders_commands(self):
            for name, build in commands.items():
                yield CommandSpec(name=name.replace("_", "-"), build=build, summary=f"About {name}.")

    return Plugin()


@pytest.fixture
def registry(monkeypatch):
    registry = Registry()
    here = __name__
    sys.modules.setdefault(here, sys.modules[greet.callback.__module__])
    registry.register(plugin(greet=f"{here}:greet", gone="nowhere.at_all:x", wrong=f"{here}:plugin"), name="mine")
    registry.register(plugin(train=f"{here}:greet"), name="bold")
    monkeypatch.setattr(plugin_commands, "get_registry", lambda: registry)
    return registry


def call(*arguments):
    return CliRunner().invoke(main, arguments)


class TestGreet(CommandSuite):
    name = "greet"

    @pytest.fixture
    def registry(self, registry):
        return registry

    def test_listing_it_imports_neither_its_code_nor_torch(self):
        pytest.skip("it is in no distribution")


def test_it_is_called_and_listed_like_any_other(registry):
    assert call("greet").output == "hello\n"
    listed = call("--help").output
    assert "About greet. (mine)" in listed and "harvest" in listed


def test_ours_cannot_be_replaced(registry):
    assert "Train as a TOML file says" in call("train", "--help").output
    assert "bold:train" in call("--help").output
    assert call("bold:train").output == "hello\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["greet", "--fault", "config"], "Error: there is nobody here"),
        (["greet", "--fault", "other"], "Error: the command 'greet' of local 0 (plugin 'mine') failed: ZeroDivision"),
        (["gone"], "Error: the command 'gone' of local 0 (plugin 'mine') cannot be used: a plugin refers to"),
        (["wrong"], "Error: the command 'wrong' of local 0 (plugin 'mine') could not be built: a Command should come"),
    ],
)
def test_its_errors_are_one_line_that_names_it(registry, arguments, message):
    found = call(*arguments)
    assert found.exit_code == 1 and found.output.startswith(message) and isinstance(found.exception, SystemExit)


def test_a_name_that_nobody_has_says_which_plugins_are_missing(registry):
    class Falling:
        @hookimpl
        def crosscoders_commands(self):
            raise ImportError("no module named wings")

    registry.register(Falling(), name="icarus")
    found = call("fly")
    assert found.exit_code == 2 and "No such command 'fly'" in found.output
    assert "not loaded: local 0 (plugin 'icarus'): ImportError: no module named wings" in found.output
    assert call("greet").output == "hello\n"
