"""The bases of all suites."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar

import pytest

from ...errors import ConfigError
from ...plugins.choices import Choice, structure, unstructure
from ...plugins.registry import Registry, get_registry


@cache
def _listed() -> subprocess.CompletedProcess[str]:
    """What a fresh process lists; it is the same for all components, so that all suites of a session share it."""
    code = (
        "import json, sys; from crosscoders import get_registry; "
        "names = [p['plugin'] for p in get_registry().listing()['plugins']]; "
        "print(json.dumps({'plugins': names, 'torch': 'torch' in sys.modules}))"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


class Suite:
    """The base of all suites."""

    expected_failures: ClassVar[Mapping[str, str]] = {}
    """The tests that the component may fail, each with the reason."""

    @pytest.fixture
    def registry(self) -> Registry:
        """The registry to look the component up in; override it to test a plugin that is not installed."""
        return get_registry()

    @pytest.fixture(autouse=True)
    def _excused(self, request: pytest.FixtureRequest) -> None:
        name = request.node.originalname
        if name in self.expected_failures:
            request.applymarker(pytest.mark.xfail(reason=self.expected_failures[name], strict=True))


class NamedSuite(Suite):
    """The base of suites for components that are chosen by name."""

    name: ClassVar[str]
    """The name of the component."""
    options: ClassVar[Mapping[str, Any]] = {}
    """The options to build the component with; choose small ones, so that tests are fast."""
    choice: ClassVar[type[Choice]]

    def chosen(self, registry: Registry) -> Any:
        return structure({"name": self.name, **self.options}, self.choice, registry=registry)

    def test_options_survive_a_round_trip(self, registry: Registry) -> None:
        choice = self.chosen(registry)
        again = structure(json.loads(json.dumps(unstructure(choice))), self.choice, registry=registry)
        assert again == choice

    def test_unknown_option_is_refused_by_name(self, registry: Registry) -> None:
        with pytest.raises(ConfigError, match="no_such_option"):
            structure({"name": self.name, **self.options, "no_such_option": 1}, self.choice, registry=registry)

    def test_listing_it_does_not_import_torch(self, registry: Registry) -> None:
        plugin = registry.catalog(self.choice.kind)[self.name].provider.plugin
        found = _listed()
        assert found.returncode == 0, found.stderr
        listed = json.loads(found.stdout)
        assert plugin in ["crosscoders", *listed["plugins"]], listed
        assert not listed["torch"], "the listing imports torch"

    def test_it_has_a_summary(self, registry: Registry) -> None:
        assert registry.catalog(self.choice.kind)[self.name].spec.summary
