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
SLACK = 1.01
"""For errors of higher order and those of sums in fp32."""


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
    pieces = crosscoder.pieces(x_BX)
    inputs, weights = _operands(crosscoder, x_BX)
    rough_inputs = [read_BX.bfloat16() for read_BX in inputs]
    errors = [
        SLACK * ((read_BX - rough_BX).norm(dim=1) + BF16_ROUNDING * read_BX.norm(dim=1))
        for read_BX, rough_BX in zip(inputs, rough_inputs, strict=True)
    ]
    norms = [W.norm(dim=1) for W in weights]
    found = []
    products = _products(rough_inputs, [W.bfloat16() for W in weights], pieces)
    for rows, product_BF in zip(pieces, products, strict=True):
        largest = [error_B[rows].amax() if len(x_BX) else error_B.new_zeros(()) for error_B in errors]
        margin_F = torch.cat([norm_F * error for norm_F, error in zip(norms, largest, strict=True)])
        limit_F = floor_F - crosscoder.b_enc_F - margin_F
        # The product is rounded once more, and so is the limit, to be compared in one type.
        limit_F -= limit_F.abs() * (4 * BF16_ROUNDING)
        found.append(operations(x_BX).survivors(product_BF, limit_F.bfloat16()))
    rough = _joined(crosscoder, x_BX, found)
    return Latents(rough.token_N, rough.latent_N, _exact(crosscoder, x_BX, rough), len(x_BX), crosscoder.num_latents)


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
        here_N = (latents.latent_N >= columns.start) & (latents.latent_N < columns.stop)
        value_N[here_N] += row_dots(read_BX, W, latents.of_group(columns))
    return value_N
