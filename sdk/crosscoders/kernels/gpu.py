"""The operations of `reference` as Triton kernels for GPUs; imported only if Triton is installed.

Rows may have any stride; columns must be contiguous. Sums are in fp32, or in fp64 for fp64 tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from .reference import counted, grouped, padded

if TYPE_CHECKING:
    from .entries import Entries

__all__ = ["counted", "grouped", "rounded", "row_dots", "sums_and_dots", "survivors", "weighted_row_sums"]

MOST_COLUMNS = 1024
"""The largest number of columns that one program handles at a time."""
ELEMENTS = 2048
"""The number of entries of a score tensor that one program compares."""


@triton.jit
def _row_sums_kernel(
    table, row, weight, start, out, num_entries, num_segments, width, stride, SUM: tl.constexpr, BLOCK: tl.constexpr
):
    segment = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    # The last segment has no successor and ends with the entries.
    first = tl.load(start + segment)
    last = tl.load(start + segment + 1, mask=segment + 1 < num_segments, other=num_entries)
    total = tl.zeros((BLOCK,), dtype=SUM)
    for entry in range(first, last):
        values = tl.load(table + tl.load(row + entry) * stride + column, mask=inside, other=0.0)
        total += tl.load(weight + entry).to(SUM) * values.to(SUM)
    tl.store(out + segment * width + column, total.to(out.dtype.element_ty), mask=inside)


def weighted_row_sums(table_RD: Tensor, row_N: Tensor, weight_N: Tensor, starts_G: Tensor) -> Tensor:
    """Like `reference.weighted_row_sums`; one program sums a block of columns of one segment."""
    table_RD, width = _rows(table_RD), table_RD.shape[1]
    out_GD = torch.empty(len(starts_G), width, dtype=table_RD.dtype, device=table_RD.device)
    block = min(MOST_COLUMNS, triton.next_power_of_2(width))
    if out_GD.numel():
        _row_sums_kernel[(len(starts_G), triton.cdiv(width, block))](
            table_RD,
            row_N,
            weight_N,
            starts_G,
            out_GD,
            len(row_N),
            len(starts_G),
            width,
            table_RD.stride(0),
            SUM=_sum_type(table_RD),
            BLOCK=block,
        )
    return out_GD


@triton.jit
def _row_dots_kernel(
    rows, table, token, latent, order, out, width, rows_stride, table_stride, SUM: tl.constexpr, BLOCK: tl.constexpr
):
    entry = tl.load(order + tl.program_id(0))
    left = rows + tl.load(token + entry) * rows_stride
    right = table + tl.load(latent + entry) * table_stride
    total = tl.zeros((BLOCK,), dtype=SUM)
    for begin in range(0, width, BLOCK):
        column = begin + tl.arange(0, BLOCK)
        inside = column < width
        total += tl.load(left + column, mask=inside, other=0.0).to(SUM) * tl.load(
            right + column, mask=inside, other=0.0
        ).to(SUM)
    tl.store(out + entry, tl.sum(total, axis=0).to(out.dtype.element_ty))


def row_dots(
    rows_BD: Tensor, table_RD: Tensor, token_N: Tensor, latent_N: Tensor, order_N: Tensor | None = None
) -> Tensor:
    """Like `reference.row_dots`; one program for each entry, started in `order_N`."""
    rows_BD, table_RD, width = _rows(rows_BD), _rows(table_RD), rows_BD.shape[1]
    if order_N is None:
        order_N = torch.arange(len(token_N), device=token_N.device)
    out_N = torch.empty(len(token_N), dtype=table_RD.dtype, device=table_RD.device)
    if len(out_N):
        _row_dots_kernel[(len(out_N),)](
            rows_BD,
            table_RD,
            token_N,
            latent_N,
            order_N,
            out_N,
            width,
            rows_BD.stride(0),
            table_RD.stride(0),
            SUM=_sum_type(table_RD),
            BLOCK=min(MOST_COLUMNS, triton.next_power_of_2(width)),
        )
    return out_N


def sums_and_dots(rows_BD: Tensor, table_FD: Tensor, weight_N: Tensor, latents: Entries) -> tuple[Tensor, Tensor]:
    """Like `reference.sums_and_dots`."""
    by_latent = latents.token_of_latent_N, weight_N[latents.by_latent], latents.latent_starts_F
    # By latent, programs that run at one time read the same rows of the table, which is far larger than the cache.
    dots_N = row_dots(rows_BD, table_FD, latents.token_N, latents.latent_N, latents.by_latent)
    return weighted_row_sums(rows_BD, *by_latent), dots_N


@triton.jit
def _above(score, floor, place, inside, num_columns, AS: tl.constexpr):
    limit = tl.load(floor + place // num_columns, mask=inside, other=0.0).to(AS)
    return (tl.load(score + place, mask=inside, other=0.0).to(AS) > limit) & inside


@triton.jit
def _count_kernel(score, floor, count, num_elements, num_columns, AS: tl.constexpr, BLOCK: tl.constexpr):
    program = tl.program_id(0).to(tl.int64)
    place = program * BLOCK + tl.arange(0, BLOCK)
    above = _above(score, floor, place, place < num_elements, num_columns, AS)
    tl.store(count + program, tl.sum(above.to(tl.int32), axis=0).to(tl.int64))


@triton.jit
def _compact_kernel(
    score, floor, offset, rows, columns, values, num_elements, num_columns, AS: tl.constexpr, BLOCK: tl.constexpr
):
    program = tl.program_id(0).to(tl.int64)
    place = program * BLOCK + tl.arange(0, BLOCK)
    inside = place < num_elements
    above = _above(score, floor, place, inside, num_columns, AS)
    number = above.to(tl.int32)
    # An exclusive cumulative sum gives each survivor its place behind those of the programs before.
    target = tl.load(offset + program) + (tl.cumsum(number, axis=0) - number)
    tl.store(rows + target, place // num_columns, mask=above)
    tl.store(columns + target, place % num_columns, mask=above)
    tl.store(values + target, tl.load(score + place, mask=inside, other=0.0), mask=above)


def survivors(score_FB: Tensor, floor_F: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Like `reference.survivors`, in two passes: a first kernel counts each program's survivors, and a second one
    writes them at offsets from the cumulative counts. So their order is that of the entries, without atomics."""
    device, programs = score_FB.device, triton.cdiv(score_FB.numel(), ELEMENTS)
    count = torch.zeros(programs, dtype=torch.int64, device=device)
    shape = (score_FB.numel(), score_FB.shape[1])
    if programs:
        _count_kernel[(programs,)](score_FB, floor_F, count, *shape, AS=_sum_type(score_FB), BLOCK=ELEMENTS)
    after = count.cumsum(0)
    total = int(after[-1]) if programs else 0
    row_N, column_N = (torch.empty(total, dtype=torch.int64, device=device) for _ in range(2))
    value_N = torch.empty(total, dtype=score_FB.dtype, device=device)
    if total:
        _compact_kernel[(programs,)](
            score_FB, floor_F, after - count, row_N, column_N, value_N, *shape, AS=_sum_type(score_FB), BLOCK=ELEMENTS
        )
    return row_N, column_N, value_N


@triton.jit
def _rounded_kernel(table, rough, norm, error, width, stride, rough_width, SUM: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    squares = tl.zeros((BLOCK,), dtype=SUM)
    errors = tl.zeros((BLOCK,), dtype=SUM)
    for begin in range(0, rough_width, BLOCK):
        column = begin + tl.arange(0, BLOCK)
        value = tl.load(table + row * stride + column, mask=column < width, other=0.0)
        near = value.to(tl.float32).to(tl.bfloat16)
        tl.store(rough + row * rough_width + column, near, mask=column < rough_width)
        off = near.to(SUM) - value.to(SUM)
        squares += value.to(SUM) * value.to(SUM)
        errors += off * off
    tl.store(norm + row, tl.sqrt(tl.sum(squares, axis=0)).to(norm.dtype.element_ty))
    tl.store(error + row, tl.sqrt(tl.sum(errors, axis=0)).to(error.dtype.element_ty))


def rounded(table_RD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Like `reference.rounded`, but in one pass over the table."""
    table_RD, (rows, width) = _rows(table_RD), table_RD.shape
    rough_RD = torch.empty(rows, padded(width), dtype=torch.bfloat16, device=table_RD.device)
    norm_R, error_R = (torch.empty(rows, dtype=table_RD.dtype, device=table_RD.device) for _ in range(2))
    if rows:
        _rounded_kernel[(rows,)](
            table_RD,
            rough_RD,
            norm_R,
            error_R,
            width,
            table_RD.stride(0),
            rough_RD.shape[1],
            SUM=_sum_type(table_RD),
            BLOCK=min(MOST_COLUMNS, triton.next_power_of_2(rough_RD.shape[1])),
        )
    return rough_RD, norm_R, error_R


def _rows(table_RD: Tensor) -> Tensor:
    """The table with contiguous columns, copied if need be: an expanded gradient or a transposed matrix lacks them."""
    return table_RD if table_RD.stride(1) == 1 else table_RD.contiguous()


def _sum_type(table_RD: Tensor) -> tl.dtype:
    return tl.float64 if table_RD.dtype == torch.float64 else tl.float32
