"""Encode and decode on sparse latents, with gradients that touch only the tokens and latents that fired.

Everything is built on one primitive: for each segment, the weighted sum of some rows of a table. The decoder sums
latents' rows per token; both weight gradients sum tokens' rows per latent.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .dispatch import operations

if TYPE_CHECKING:
    from .entries import Entries

GRADIENT_PIECES = 16
"""Number of pieces in which a weight gradient is added to an existing one; temporary memory is one piece."""

_in_place: ContextVar[bool] = ContextVar("in_place", default=False)


def row_dots(rows_BD: Tensor, table_RD: Tensor, latents: Entries) -> Tensor:
    """The dot products rows[token] · table[latent] of the entries of `latents`: (N,)."""
    return operations(table_RD).row_dots(rows_BD, table_RD, latents.token_N, latents.latent_N)


def sums_by_latent(weight_N: Tensor, latents: Entries) -> Tensor:
    """The sum of a number of each entry of `latents` over each latent, (F,), with gradient."""
    sum_F = weight_N.new_zeros(latents.num_latents)
    if weight_N.is_cpu:
        return sum_F.index_add(0, latents.latent_N, weight_N)
    # On a GPU, `index_add` adds in whatever order its threads come; this sorts first, so that bits stay the same.
    return sum_F.index_put((latents.latent_N,), weight_N, accumulate=True)


def _sums_by_token(table_RD: Tensor, weight_N: Tensor, latents: Entries) -> Tensor:
    return operations(table_RD).weighted_row_sums(table_RD, latents.latent_N, weight_N, latents.token_starts_B)


def _row_sums_by_latent(rows_BD: Tensor, weight_N: Tensor, latents: Entries) -> Tensor:
    return operations(rows_BD).weighted_row_sums(
        rows_BD.contiguous(), latents.token_of_latent_N, weight_N[latents.by_latent], latents.latent_starts_F
    )


@contextmanager
def gradients_in_place() -> Iterator[None]:
    """In this context, sparse products are recorded such that their backward passes add to existing weight gradients.

    The gradients are added piece by piece. Autograd would compute each as a whole and then add it, which takes as much
    memory again. Gradient hooks on the weights are not called for what is added in place.
    """
    token = _in_place.set(True)
    try:
        yield
    finally:
        _in_place.reset(token)


def _held(W: Tensor, in_place: bool) -> Tensor | None:
    """The existing gradient of `W` to add to in place; None if there is none yet, or if autograd should add."""
    return W.grad if in_place and W.is_leaf else None


def _weight_gradient(W: Tensor, rows_BD: Tensor, weight_N: Tensor, latents: Entries, in_place: bool) -> Tensor | None:
    """Σ over tokens of weight · row for each latent; None if it was added in place to the gradient of `W`."""
    held = _held(W, in_place)
    if held is None:
        return _row_sums_by_latent(rows_BD, weight_N, latents)
    rows_BD, weight_N = rows_BD.contiguous(), weight_N[latents.by_latent]
    firsts = list(range(0, latents.num_latents, -(-latents.num_latents // GRADIENT_PIECES)))
    entries = latents.latent_starts_F[firsts].tolist()
    for piece, part in zip(
        map(slice, firsts, [*firsts[1:], latents.num_latents]),
        map(slice, entries, [*entries[1:], len(weight_N)]),
        strict=True,
    ):
        held[piece] += operations(rows_BD).weighted_row_sums(
            rows_BD, latents.token_of_latent_N[part], weight_N[part], latents.latent_starts_F[piece] - part.start
        )
    return None


class _SparseDecode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value_N: Tensor, W_dec_FX: Tensor, latents: Entries) -> Tensor:
        ctx.save_for_backward(value_N, W_dec_FX)
        ctx.latents, ctx.in_place = latents, _in_place.get()
        return _sums_by_token(W_dec_FX, value_N, latents)

    @staticmethod
    def backward(ctx: Any, grad_BX: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        value_N, W_dec_FX = ctx.saved_tensors
        latents: Entries = ctx.latents
        # Both gradients read the same rows of `grad_BX`, so one fused operation computes them if both are wanted whole.
        if all(ctx.needs_input_grad[:2]) and _held(W_dec_FX, ctx.in_place) is None:
            sums_FX, dot_N = operations(W_dec_FX).sums_and_dots(grad_BX, W_dec_FX, value_N, latents)
            return dot_N, sums_FX, None
        grad_value_N = row_dots(grad_BX, W_dec_FX, latents) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return grad_value_N, None, None
        return grad_value_N, _weight_gradient(W_dec_FX, grad_BX, value_N, latents, ctx.in_place), None


class _SparseEncode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BX: Tensor, W_enc_FX: Tensor, b_enc_F: Tensor, latents: Entries) -> Tensor:
        ctx.save_for_backward(x_BX, W_enc_FX)
        ctx.latents, ctx.in_place = latents, _in_place.get()
        return latents.value_N.clone()

    @staticmethod
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x_BX, W_enc_FX = ctx.saved_tensors
        latents: Entries = ctx.latents
        grad_x_BX = grad_W_FX = grad_b_F = None
        if ctx.needs_input_grad[0]:
            grad_x_BX = _sums_by_token(W_enc_FX, grad_N, latents)
        if ctx.needs_input_grad[1]:
            grad_W_FX = _weight_gradient(W_enc_FX, x_BX, grad_N, latents, ctx.in_place)
        if ctx.needs_input_grad[2]:
            grad_b_F = sums_by_latent(grad_N, latents)
        return grad_x_BX, grad_W_FX, grad_b_F, None


def sparse_decode(value_N: Tensor, W_dec_FX: Tensor, latents: Entries) -> Tensor:
    """The sum of `value · W_dec[latent]` per token, (B, X), with gradients to values and weights.

    `latents` gives the positions; `value_N` replaces its values, so that they can carry a gradient.
    """
    result: Tensor = _SparseDecode.apply(value_N, W_dec_FX, latents)  # type: ignore[no-untyped-call]
    return result


def sparse_encode(x_BX: Tensor, W_enc_FX: Tensor, b_enc_F: Tensor, latents: Entries) -> Tensor:
    """The values x·W_enc + b at the positions of `latents`, (N,), with gradients to x, weights and bias.

    The forward pass copies the values from `latents`: the dense product that selected them has already computed them.
    """
    result: Tensor = _SparseEncode.apply(x_BX, W_enc_FX, b_enc_F, latents)  # type: ignore[no-untyped-call]
    return result
