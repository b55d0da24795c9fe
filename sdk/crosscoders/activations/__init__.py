"""From documents to shuffled activations of all sites."""

from .harvest import Harvester
from .masks import MaskConfig, keep_mask
from .sequences import SequenceReader, reading_adapter
from .stream import ActivationConfig, ActivationStream, Calibration, calibrate

__all__ = [
    "ActivationConfig",
    "ActivationStream",
    "Calibration",
    "Harvester",
    "MaskConfig",
    "SequenceReader",
    "calibrate",
    "keep_mask",
    "reading_adapter",
]
