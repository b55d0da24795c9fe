"""For authors of plugins: what the engine of our own components is built of, beside the names of `crosscoders` itself.

Nothing else of the host is meant for plugins, apart from `crosscoders.converters`, `crosscoders.reports.figures` and
`crosscoders.testing`; an import contract holds our own plugins to that.
"""

from __future__ import annotations

from .checkpoints.blueprint import Answers, Blueprint, GatePlan, GroupPlan, Question, Rows, Slot, Vector
from .checkpoints.source import Source
from .checkpoints.stored import StoredTensor, TensorFile, View
from .crosscoder.sparse_encoder import Candidates, find_candidates, find_candidates_by_bf16
from .kernels import batch_topk, row_dots
from .losses.auxk import auxk
from .losses.selection import BatchSelectionConfig, BatchSelectionLoss, SelectionConfig, SelectionLoss
from .processes import Processes

__all__ = [
    "Answers",
    "BatchSelectionConfig",
    "BatchSelectionLoss",
    "Blueprint",
    "Candidates",
    "GatePlan",
    "GroupPlan",
    "Processes",
    "Question",
    "Rows",
    "SelectionConfig",
    "SelectionLoss",
    "Slot",
    "Source",
    "StoredTensor",
    "TensorFile",
    "Vector",
    "View",
    "auxk",
    "batch_topk",
    "find_candidates",
    "find_candidates_by_bf16",
    "row_dots",
]
