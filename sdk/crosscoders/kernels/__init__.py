"""Sparse products: the few operations whose cost grows with the latents that fired, not with the dictionary."""

from . import native, reference
from .dispatch import operations
from .processor import preselection
from .sparse import gradients_in_place, row_dots, sparse_decode, sparse_encode, sums_by_latent
from .square_sum import sum_of_squares
from .topk import batch_topk

__all__ = [
    "batch_topk",
    "gradients_in_place",
    "native",
    "operations",
    "preselection",
    "reference",
    "row_dots",
    "sparse_decode",
    "sparse_encode",
    "sum_of_squares",
    "sums_by_latent",
]
