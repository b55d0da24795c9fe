"""From documents to shuffled activations of all sites."""

from .blocks import Block, BlockSource, LiveBlocks
from .cache import CachedActivations, verify_cache, write_cache
from .calibration import Calibration, calibrate
from .config import ActivationConfig, HarvestConfig
from .harvest import Harvester
from .masks import MaskConfig, keep_mask
from .source import ActivationSource, LiveActivations, watched
from .stream import ActivationStream

__all__ = [
    "ActivationConfig",
    "ActivationSource",
    "ActivationStream",
    "Block",
    "BlockSource",
    "CachedActivations",
    "Calibration",
    "HarvestConfig",
    "Harvester",
    "LiveActivations",
    "LiveBlocks",
    "MaskConfig",
    "calibrate",
    "keep_mask",
    "verify_cache",
    "watched",
    "write_cache",
]
