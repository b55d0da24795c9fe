"""From documents to shuffled activations of all sites."""

from .alignment import Alignment, align
from .harvest import Harvester
from .masks import MaskConfig, keep_mask
from .paired import PairedReader, reader_of
from .sequences import SequenceReader, reading_adapter
from .stream import ActivationConfig, ActivationStream, Calibration, calibrate

__all__ = [
    "ActivationConfig",
    "ActivationStream",
    "Alignment",
    "Calibration",
    "Harvester",
    "MaskConfig",
    "PairedReader",
    "SequenceReader",
    "align",
    "calibrate",
    "keep_mask",
    "reader_of",
    "reading_adapter",
]
