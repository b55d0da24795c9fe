"""Sparse products: the few operations whose cost grows with the latents that fired, not with the dictionary."""

from .sparse import row_dots, sparse_decode, sparse_encode, weighted_row_sums
from .topk import batch_topk, survivors

__all__ = [
    "batch_topk",
    "row_dots",
    "sparse_decode",
    "sparse_encode",
    "survivors",
    "weighted_row_sums",
]
