"""Sparse products: the few operations whose cost grows with the latents that fired, not with the dictionary."""

from .choice import operations
from .sparse import row_dots, sparse_decode, sparse_encode
from .topk import batch_topk

__all__ = [
    "batch_topk",
    "operations",
    "row_dots",
    "sparse_decode",
    "sparse_encode",
]
