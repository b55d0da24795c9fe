"""From documents to shuffled activations of all sites."""

from .alignment import Alignment, align
from .blocks import Block, BlockSource, LiveBlocks
from .cache import CachedActivations, verify_cache, write_cache
from .calibration import Calibration, calibrate
from .config import ActivationConfig, HarvestConfig
from .harvest import Harvester
from .masks import MaskConfig, keep_mask
from .paired import PairedReader, reader_of
from .sequences import SequenceReader, reading_adapter
from .source import ActivationSource, LiveActivations
from .stream import ActivationStream

__all__ = [
    "ActivationConfig",
    "ActivationSource",
    "ActivationStream",
    "Alignment",
    "Block",
    "BlockSource",
    "CachedActivations",
    "Calibration",
    "HarvestConfig",
    "Harvester",
    "LiveActivations",
    "LiveBlocks",
    "MaskConfig",
    "PairedReader",
    "SequenceReader",
    "align",
    "calibrate",
    "keep_mask",
    "reader_of",
    "reading_adapter",
    "verify_cache",
    "write_cache",
]
