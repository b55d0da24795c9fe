"""Sparse products: the few operations whose cost grows with the latents that fired, not with the dictionary."""

from .sparse import row_dots, sparse_decode, sparse_encode, weighted_row_sums
from .topk import batch_topk, enough, least_over_processes, survivors

__all__ = [
    "batch_topk",
    "enough",
    "least_over_processes",
    "row_dots",
    "sparse_decode",
    "sparse_encode",
    "survivors",
    "weighted_row_sums",
]
