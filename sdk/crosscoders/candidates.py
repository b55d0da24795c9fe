"""Finding the few latents of a batch that can be selected: one encoder product, looked at in pieces.

No (tokens × latents) tensor is made: each piece goes into the same buffer, and only what exceeds a floor is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .crosscoder import Crosscoder
from .kernels import operations, row_dots
from .latents import Latents

BF16_ROUNDING = 2.0**-8
"""Largest relative error of a number rounded to bf16."""
ROUNDED_AT_ONCE = {"cpu": 2**18, "cuda": 2**26}
"""Weights rounded at a time: on a CPU, as many as stay near while they are looked at three times."""
FP32_ROUNDING = 2.0**-24
"""The same of a number rounded to fp32."""
SLACK = 1.01
"""For errors of higher order: norms are of the numbers before rounding, and rounded themselves."""


@torch.no_grad()
def candidates(crosscoder: Crosscoder, x_BX: Tensor, floor_F: Tensor) -> Latents:
    """Latents of normalised `x_BX` whose pre-activation exceeds `floor_F`."""
    pieces = crosscoder.pieces(x_BX)
    products: Iterator[Tensor]
    if torch.is_autocast_enabled(x_BX.device.type):
        products = (crosscoder.pre_activations(x_BX[rows]) for rows in pieces)
    else:
        inputs, weights = _operands(crosscoder, x_BX)
        products = _products(inputs, weights, pieces, bias_F=crosscoder.b_enc_F)
    return _joined(crosscoder, x_BX, [operations(x_BX).survivors(product_BF, floor_F) for product_BF in products])


@torch.no_grad()
def candidates_in_bf16(crosscoder: Crosscoder, x_BX: Tensor, floor_F: Tensor) -> Latents:
    """A few more than `candidates`, by a product in bf16 whose largest error is allowed for; values are exact.

    None that exceeds the floor is missed; some that are below it may be among them. Rounding x to x̄ and w to w̄ changes
    their product by at most ‖x − x̄‖·‖w‖ + ‖x̄‖·‖w − w̄‖ (Cauchy and Schwarz).
    """
    if not len(x_BX):
        return candidates(crosscoder, x_BX, floor_F)
    pieces = crosscoder.pieces(x_BX)
    inputs, weights = _operands(crosscoder, x_BX)
    rough_inputs, input_norms, input_errors = zip(*map(_rounded, inputs), strict=True)
    rough_weights, weight_norms, weight_errors = zip(*map(_rounded, weights), strict=True)
    found = []
    for rows, product_BF in zip(pieces, _products(rough_inputs, rough_weights, pieces), strict=True):
        margins = []
        for W, norm_B, error_B, norm_F, error_F in zip(
            weights, input_norms, input_errors, weight_norms, weight_errors, strict=True
        ):
            # What summing in fp32 can add, in whatever order.
            summing_F = W.shape[1] * FP32_ROUNDING * norm_F
            margins.append(error_B[rows].amax() * norm_F + norm_B[rows].amax() * (error_F + summing_F))
        limit_F = floor_F - crosscoder.b_enc_F - SLACK * torch.cat(margins)
        # The product is rounded once more, and so is the limit, to be compared in one type.
        limit_F -= limit_F.abs() * (4 * BF16_ROUNDING)
        found.append(operations(x_BX).survivors(product_BF, limit_F.bfloat16()))
    rough = _joined(crosscoder, x_BX, found)
    return Latents(rough.token_N, rough.latent_N, _exact(crosscoder, x_BX, rough), len(x_BX), crosscoder.num_latents)


def _rounded(table_RD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A table in bf16, the norms of its rows, and the norms of what rounding took from them."""
    rough_RD = torch.empty_like(table_RD, dtype=torch.bfloat16, memory_format=torch.contiguous_format)
    norm_R, error_R = (table_RD.new_empty(len(table_RD)) for _ in range(2))
    step = max(1, ROUNDED_AT_ONCE["cpu" if table_RD.device.type == "cpu" else "cuda"] // table_RD.shape[1])
    for start in range(0, len(table_RD), step):
        rows = slice(start, start + step)
        rough_RD[rows] = table_RD[rows]
        norm_R[rows] = table_RD[rows].norm(dim=1)
        error_R[rows] = rough_RD[rows].to(table_RD.dtype).sub_(table_RD[rows]).norm(dim=1)
    return rough_RD, norm_R, error_R


def _operands(crosscoder: Crosscoder, x_BX: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    groups = crosscoder.wiring.groups
    weights = [crosscoder.encoder_weight(number) for number in range(len(groups))]
    return [x_BX[:, crosscoder.columns_read(group)] for group in groups], weights


def _products(
    inputs: Sequence[Tensor], weights: Sequence[Tensor], pieces: Sequence[slice], *, bias_F: Tensor | None = None
) -> Iterator[Tensor]:
    """x·W (+ bias) of all groups side by side, for some rows at a time; each is overwritten by the next."""
    num_latents = sum(len(W) for W in weights)
    num_tokens = len(inputs[0])
    buffer_BF = inputs[0].new_empty(min(num_tokens, pieces[0].stop), num_latents)
    for rows in pieces:
        product_BF = buffer_BF[: len(range(num_tokens)[rows])]
        start = 0
        for read_BX, W in zip(inputs, weights, strict=True):
            columns = slice(start, start + len(W))
            if bias_F is None:
                torch.mm(read_BX[rows], W.T, out=product_BF[:, columns])
            else:
                torch.addmm(bias_F[columns], read_BX[rows], W.T, out=product_BF[:, columns])
            start = columns.stop
        yield product_BF


def _joined(crosscoder: Crosscoder, x_BX: Tensor, found: Sequence[tuple[Tensor, Tensor]]) -> Latents:
    """Survivors of successive pieces as latents of the whole batch."""
    elements = [rows.start * crosscoder.num_latents for rows in crosscoder.pieces(x_BX)]
    place_N = torch.cat([place_N + start for (place_N, _), start in zip(found, elements, strict=True)])
    token_N = place_N // crosscoder.num_latents
    latent_N = place_N - token_N * crosscoder.num_latents
    value_N = torch.cat([value_N for _, value_N in found])
    return Latents(token_N, latent_N, value_N.to(x_BX.dtype), len(x_BX), crosscoder.num_latents)


def _exact(crosscoder: Crosscoder, x_BX: Tensor, latents: Latents) -> Tensor:
    """Pre-activations at the positions of `latents`, one by one in full precision."""
    value_N = crosscoder.b_enc_F[latents.latent_N]
    inputs, weights = _operands(crosscoder, x_BX)
    if len(inputs) == 1:
        return value_N + row_dots(inputs[0], weights[0], latents)
    for read_BX, W, columns in zip(inputs, weights, crosscoder.wiring.latent_slices.values(), strict=True):
        value_N[latents.inside(columns)] += row_dots(read_BX, W, latents.of_group(columns))
    return value_N
