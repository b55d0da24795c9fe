"""Conformance suites: one abstract class of tests for each kind of component.

Our own components run the same suites. A rule that a component breaks for a good reason is listed in
`expected_failures` with that reason; if it passes after all, the test fails, so that excuses do not outlive their
cause.
"""

from .analysis import AnalysisSuite
from .architecture import ArchitectureSuite
from .checkpoint_format import CheckpointFormatSuite
from .command import CommandSuite
from .gate import GateSuite
from .loss import LossSuite
from .loss_term import LossTermSuite
from .metric import MetricSuite
from .model_adapter import ModelAdapterSuite
from .observer import ObserverSuite
from .token_source import TokenSourceSuite

__all__ = [
    "AnalysisSuite",
    "ArchitectureSuite",
    "CheckpointFormatSuite",
    "CommandSuite",
    "GateSuite",
    "LossSuite",
    "LossTermSuite",
    "MetricSuite",
    "ModelAdapterSuite",
    "ObserverSuite",
    "TokenSourceSuite",
]
