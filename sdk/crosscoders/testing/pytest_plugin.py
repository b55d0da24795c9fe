"""Fixtures for every test suite in an environment with crosscoders, which is imported only inside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from ..analysis.study import Study
    from ..crosscoder.module import Crosscoder
    from ..plugins.registry import Registry

# Let pytest rewrite the asserts of the suites, so that a failing rule shows what it compared.
pytest.register_assert_rewrite("crosscoders.testing.suites")


@pytest.fixture
def crosscoders_registry() -> Registry:
    """An empty registry that raises on broken plugins and ignores installed ones."""
    from ..plugins.registry import Registry

    return Registry(strict=True)


@pytest.fixture(scope="session")
def planted_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a run on the planted base/chat pair, which takes a few seconds."""
    from ..training import RunConfig, train
    from .fakes import synthetic_run

    folder = tmp_path_factory.mktemp("planted_run")
    train(RunConfig.from_dict(synthetic_run(str(folder))), quiet=True)
    return folder


@pytest.fixture
def planted_crosscoder(planted_run: Path) -> Crosscoder:
    """The crosscoder of `planted_run`, loaded from disk."""
    from ..crosscoder.module import Crosscoder
    from .place import device

    return Crosscoder.from_pretrained(planted_run / "crosscoder", device=device())


@pytest.fixture
def planted_study(planted_crosscoder: Crosscoder) -> Study:
    """A study of `planted_crosscoder`."""
    from ..analysis.study import Study

    return Study.of(planted_crosscoder, num_tokens=2048)
