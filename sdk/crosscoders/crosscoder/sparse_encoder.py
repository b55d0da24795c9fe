"""Finding the few latents of a batch that may be selected, by one encoder product that is inspected in pieces.

No (latents × tokens) tensor is ever held: each piece, a few latents for all tokens, is written into the same buffer,
and only the entries above a floor are kept. Because pieces are ranges of latents, every weight is read once and the
pieces cost no more than the whole product; pieces of tokens would read all weights again for each piece.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from attrs import frozen
from torch import Tensor

from ..kernels import operations
from .latents import Latents
from .module import Crosscoder

LATENT_PIECE_ELEMENTS = {"cpu": 2**21, "cuda": 2**28}
"""Number of pre-activations in one piece: 8 MB in fp32 on a CPU, so that the piece stays in cache while it is compared
with its floor; 1 GB on a GPU, so that few kernels are launched."""
LEAST_PIECE_LATENTS = 64
"""A piece has at least this many latents: with fewer, the matrix product becomes slow."""
BF16_ROUNDING = 2.0**-8
"""Largest relative error of rounding a number to bf16, which has 8 significant bits."""
FP32_ROUNDING = 2.0**-24
"""Largest relative error of rounding a number to fp32, which has 24 significant bits."""
SLACK = 1.01
"""Factor that covers errors of higher order: the bound uses norms from before rounding, themselves rounded."""


@frozen(eq=False)
class Candidates:
    """The (token, latent) entries of a batch that may be selected, ordered by latent, then by token."""

    latent_N: Tensor
    token_N: Tensor
    value_N: Tensor
    num_tokens: int
    num_latents: int

    def inside(self, latents: slice) -> slice:
        """The range of entries whose latent is in `latents`."""
        if latents == slice(0, self.num_latents):
            return slice(None)
        ends = torch.tensor([latents.start, latents.stop], device=self.latent_N.device)
        return slice(*torch.searchsorted(self.latent_N, ends).tolist())

    def select(self, keep_N: Tensor) -> Latents:
        """The entries where the boolean mask `keep_N` is true, as `Latents`, which are ordered by token."""
        # A stable counting sort over tokens keeps the latents of each token in increasing order.
        kept_M = keep_N.nonzero().squeeze(1)
        order_M, _ = operations(keep_N).grouped(self.token_N[kept_M], self.num_tokens)
        index_M = kept_M[order_M]
        return Latents(
            self.token_N[index_M], self.latent_N[index_M], self.value_N[index_M], self.num_tokens, self.num_latents
        )


def piece_latents(num_tokens: int, device: str) -> int:
    """The number of latents in one piece, for a batch of `num_tokens` on a device of this type."""
    return max(LEAST_PIECE_LATENTS, LATENT_PIECE_ELEMENTS["cpu" if device == "cpu" else "cuda"] // max(1, num_tokens))


@torch.no_grad()
def find_candidates(crosscoder: Crosscoder, x_BX: Tensor, floor_F: Tensor) -> Candidates:
    """Find the entries of normalised `x_BX` whose pre-activation exceeds the latent's floor in `floor_F`."""
    device = x_BX.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x_BX.dtype
    inputs, bias_F = [read_BX.to(dtype) for read_BX in _inputs(crosscoder, x_BX)], crosscoder.b_enc_F.to(dtype)

    def found_in(index: int, latents: slice, W: Tensor, out_FB: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        torch.addmm(bias_F[latents, None], W.to(dtype), inputs[index].T, out=out_FB)
        latent_N, token_N, value_N = operations(x_BX).survivors(out_FB, floor_F[latents])
        return latent_N + latents.start, token_N, value_N

    return _joined(crosscoder, x_BX, [found_in(*piece) for piece in _pieces(crosscoder, x_BX, dtype)])


@torch.no_grad()
def find_candidates_by_bf16(crosscoder: Crosscoder, x_BX: Tensor, floor_F: Tensor) -> Candidates:
    """Find at least the entries of `find_candidates`, by a product in bf16 whose error is bounded; values are exact.

    No entry above the floor is missed, and a few below it may be returned too. Rounding x to x̄ and w to w̄ changes
    their product by at most ‖x − x̄‖·‖w‖ + ‖x̄‖·‖w − w̄‖ (Cauchy-Schwarz). With the largest ratio r = ‖x − x̄‖ / ‖x‖ of
    the batch, this is at most ‖x‖ · (r·‖w‖ + ‖w − w̄‖) up to higher orders: a number of the token times a number of the
    latent. One extra column of the product therefore adds the bound to each entry.
    """
    if not len(x_BX):
        return find_candidates(crosscoder, x_BX, floor_F)
    kernels = operations(x_BX)
    inputs, rough_inputs, shares = [read_BX.contiguous() for read_BX in _inputs(crosscoder, x_BX)], [], []
    for read_BX in inputs:
        rough_BX, norm_B, error_B = kernels.rounded(read_BX)
        # The first padding column, which is zero otherwise, holds the token's factor of the bound.
        rough_BX[:, read_BX.shape[1]] = _rounded_up(norm_B)
        rough_inputs.append(rough_BX)
        shares.append((error_B / norm_B.clamp_min(torch.finfo(norm_B.dtype).tiny)).amax())

    def found_in(index: int, latents: slice, W: Tensor, out_FB: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rough_FX, norm_F, error_F = kernels.rounded(W)
        # The last summand bounds the error of summing X + 1 products in fp32, in whatever order.
        margin_F = error_F + (shares[index] + (W.shape[1] + 1) * FP32_ROUNDING) * norm_F
        rough_FX[:, W.shape[1]] = _rounded_up(SLACK * margin_F)
        bias_F = crosscoder.b_enc_F[latents]
        limit_F = floor_F[latents] - bias_F
        # The product is stored in bf16, so it is rounded once more: lower the limit by that rounding error.
        limit_F -= limit_F.abs() * (SLACK * BF16_ROUNDING)
        torch.mm(rough_FX, rough_inputs[index].T, out=out_FB)
        latent_N, token_N, _ = kernels.survivors(out_FB, limit_F)
        # Few entries survive, so computing their exact values in fp32 is cheap.
        value_N = kernels.row_dots(inputs[index], W, token_N, latent_N) + bias_F[latent_N]
        return latent_N + latents.start, token_N, value_N

    return _joined(crosscoder, x_BX, [found_in(*piece) for piece in _pieces(crosscoder, x_BX, torch.bfloat16)])


def _rounded_up(norm_R: Tensor) -> Tensor:
    # Rounding to bf16 could make the bound smaller than it must be, so enlarge it first by more than that error.
    return (norm_R * (1 + 2 * BF16_ROUNDING)).bfloat16()


def _joined(crosscoder: Crosscoder, x_BX: Tensor, found: list[tuple[Tensor, Tensor, Tensor]]) -> Candidates:
    """Join what was found in all pieces."""
    latent_N, token_N, value_N = map(torch.cat, zip(*found, strict=True))
    return Candidates(latent_N, token_N, value_N.to(x_BX.dtype), len(x_BX), crosscoder.num_latents)


def _inputs(crosscoder: Crosscoder, x_BX: Tensor) -> list[Tensor]:
    """The columns of `x_BX` that each group reads."""
    return [x_BX[:, crosscoder.columns_read(group)] for group in crosscoder.wiring.groups]


def _pieces(crosscoder: Crosscoder, x_BX: Tensor, dtype: torch.dtype) -> Iterator[tuple[int, slice, Tensor, Tensor]]:
    """Cut each group into pieces: yields the group's index, the latents, their rows, and a buffer for their product."""
    num_tokens = len(x_BX)
    step = piece_latents(num_tokens, x_BX.device.type)
    # One buffer serves all pieces: fresh memory for each would cost a fifth of a small step in page faults.
    buffer = x_BX.new_empty(min(step, crosscoder.num_latents) * num_tokens, dtype=dtype)
    for index, latents in enumerate(crosscoder.wiring.latent_slices.values()):
        W = crosscoder.encoder_weight(index)
        for start in range(0, len(W), step):
            rows, first = W[start : start + step], latents.start + start
            out_FB = buffer[: len(rows) * num_tokens].view(len(rows), num_tokens)
            yield index, slice(first, first + len(rows)), rows, out_FB
