"""For plugin authors: the building blocks of our own components that are not exported by `crosscoders` itself.

Plugins may also use `crosscoders.converters`, `crosscoders.reports.figures` and `crosscoders.testing`, but nothing else
of the host. An import contract holds our own plugins to the same rule.
"""

from __future__ import annotations

from .analysis.examples import Activity, activity
from .analysis.generate import drawn, left_padded
from .analysis.patching import Amplified, Arm, PatchedTokens, Patching, patched
from .checkpoints.blueprint import Answers, Blueprint, GatePlan, GroupPlan, Question, Rows, Slot, Vector
from .checkpoints.source import Source
from .checkpoints.stored import StoredTensor, TensorFile, View
from .crosscoder.explanations import write_explanations
from .crosscoder.sparse_encoder import Candidates, find_candidates, find_candidates_by_bf16
from .devices import accumulator, precise
from .kernels import batch_topk, row_dots
from .losses.auxk import auxk
from .losses.selection import BatchSelectionConfig, BatchSelectionLoss, SelectionConfig, SelectionLoss
from .models.capabilities import (
    generates,
    gives_logits,
    language_model,
    lays_out_chats,
    reads_text,
    token_texts,
    tokenized,
    vocabulary_of,
)
from .models.context import longest_context
from .models.in_common import in_common
from .models.predictions import Piece, pieces, puts
from .processes import Processes

__all__ = [
    "Activity",
    "Amplified",
    "Answers",
    "Arm",
    "BatchSelectionConfig",
    "BatchSelectionLoss",
    "Blueprint",
    "Candidates",
    "GatePlan",
    "GroupPlan",
    "PatchedTokens",
    "Patching",
    "Piece",
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
    "accumulator",
    "activity",
    "auxk",
    "batch_topk",
    "drawn",
    "find_candidates",
    "find_candidates_by_bf16",
    "generates",
    "gives_logits",
    "in_common",
    "language_model",
    "lays_out_chats",
    "left_padded",
    "longest_context",
    "patched",
    "pieces",
    "precise",
    "puts",
    "reads_text",
    "row_dots",
    "token_texts",
    "tokenized",
    "vocabulary_of",
    "write_explanations",
]
