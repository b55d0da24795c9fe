"""Conformance suites: one abstract class of tests for each kind of component.

First-party components run the same suites. A rule that a component rightly breaks is named in `expected_failures`
with the reason; if it then passes, that fails too, so that excuses do not outlive their cause.
"""

from .analysis import AnalysisSuite
from .architecture import ArchitectureSuite
from .checkpoint_format import CheckpointFormatSuite
from .loss import LossSuite
from .loss_term import LossTermSuite
from .model_adapter import ModelAdapterSuite
from .token_source import TokenSourceSuite

__all__ = [
    "AnalysisSuite",
    "ArchitectureSuite",
    "CheckpointFormatSuite",
    "LossSuite",
    "LossTermSuite",
    "ModelAdapterSuite",
    "TokenSourceSuite",
]
