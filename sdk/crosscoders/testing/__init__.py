"""For tests of plugins: a conformance suite for each kind of component, planted worlds, and pytest fixtures.

Subclass a suite in a test module and name the component; pytest then runs every rule:

    from crosscoders.testing import LossSuite

    class TestMyLoss(LossSuite):
        name = "my_loss"
        options = {"weight": 0.1}
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .fakes import markov_pair, synthetic_run
    from .suites import (
        AnalysisSuite,
        ArchitectureSuite,
        CheckpointFormatSuite,
        CommandSuite,
        GateSuite,
        LossSuite,
        LossTermSuite,
        MetricSuite,
        ModelAdapterSuite,
        ObserverSuite,
        TokenSourceSuite,
    )
    from .worlds import DiffWorld, DiffWorldConfig, LayerWorld, LayerWorldConfig

__all__ = [
    "AnalysisSuite",
    "ArchitectureSuite",
    "CheckpointFormatSuite",
    "CommandSuite",
    "DiffWorld",
    "DiffWorldConfig",
    "GateSuite",
    "LayerWorld",
    "LayerWorldConfig",
    "LossSuite",
    "LossTermSuite",
    "MetricSuite",
    "ModelAdapterSuite",
    "ObserverSuite",
    "TokenSourceSuite",
    "markov_pair",
    "synthetic_run",
]


def __getattr__(name: str) -> Any:
    # Lazy, because pytest imports this package for its plugin before anything else.
    if name in ("markov_pair", "synthetic_run"):
        return getattr(import_module(".fakes", __name__), name)
    if name in ("DiffWorld", "DiffWorldConfig", "LayerWorld", "LayerWorldConfig"):
        return getattr(import_module(".worlds", __name__), name)
    if name in __all__:
        return getattr(import_module(".suites", __name__), name)
    raise AttributeError(f"module 'crosscoders.testing' has no attribute '{name}'")
