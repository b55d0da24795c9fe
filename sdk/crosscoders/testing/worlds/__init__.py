"""Planted worlds: synthetic activations whose features are known, as pure functions of token ids.

A token id is the seed of one sample, through a counter-based hash. So any part of a world can be recomputed from its
ids alone, models that read the same ids see the same concepts, and no data set is stored.
"""

from .diff import DiffWorld, DiffWorldConfig
from .hashing import normal, uniform
from .layers import LayerWorld, LayerWorldConfig

__all__ = ["DiffWorld", "DiffWorldConfig", "LayerWorld", "LayerWorldConfig", "normal", "uniform"]
