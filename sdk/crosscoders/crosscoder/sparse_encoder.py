"""Finding the few latents of a batch that can be selected: one encoder product, looked at in pieces.

No (latents × tokens) tensor is made: each piece, some latents for all tokens, goes into the same buffer, and only what
exceeds a floor is kept. Pieces of latents read every weight once, and cost no more than the whole product.
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
"""Products of one piece: on a CPU 8 MB in fp32, so that they are near when compared; on a GPU 1 GB, so that few kernels
are launched."""
LEAST_PIECE_LATENTS = 64
"""Fewer latents than this make the product slow."""
BF16_ROUNDING = 2.0**-8
"""Largest relative error of a number rounded to bf16."""
FP32_ROUNDING = 2.0**-24
"""The same of a number rounded to fp32."""
SLACK = 1.01
"""For errors of higher order: norms are of the numbers before rounding, and rounded themselves."""


@frozen(eq=False)
class Candidates:
    """Entries of B tokens and F latents that may be selected, ordered by latent, then token."""

    latent_N: Tensor
    token_N: Tensor
    value_N: Tensor
    num_tokens: int
    num_latents: int

    def inside(self, latents: slice) -> slice:
        """Where the entries of the latents in `latents` are."""
        if latents == slice(0, self.num_latents):
            return slice(None)
        ends = torch.tensor([latents.start, latents.stop], device=self.latent_N.device)
        return slice(*torch.searchsorted(self.latent_N, ends).tolist())

    def select(self, keep_N: Tensor) -> Latents:
        """Those where the boolean `keep_N` is true, ordered by token."""
        kept_M = keep_N.nonzero().squeeze(1)
        order_M, _ = operations(keep_N).grouped(self.token_N[kept_M], self.num_tokens)
        index_M = kept_M[order_M]
        return Latents(
            self.token_N[index_M], self.latent_N[index_M], self.value_N[index_M], self.num_tokens, self.num_latents
        )


def piece_latents(num_tokens: int, device: str) -> int:
    """Latents of one piece on a kind of device."""
    return max(LEAST_PIECE_LATENTS, LATENT_PIECE_ELEMENTS["cpu" if device == "cpu" else "cuda"] // max(1, num_tokens))


@torch.no_grad()
def find_candidates(crosscoder: Crosscoder, x_BX: Tensor, floor_F: Tensor) -> Candidates:
    """Entries of normalised `x_BX` whose pre-activation exceeds `floor_F`."""
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
    """A few more than `candidates`, by a product in bf16 whose largest error is allowed for; values are exact.

    None that exceeds the floor is missed; some that are below it may be among them. Rounding x to x̄ and w to w̄ changes
    their product by at most ‖x − x̄‖·‖w‖ + ‖x̄‖·‖w − w̄‖ (Cauchy and Schwarz). That bound is itself a product, of
    something of the token with something of the latent, so one more column adds it.
    """
    if not len(x_BX):
        return find_candidates(crosscoder, x_BX, floor_F)
    kernels = operations(x_BX)
    inputs, rough_inputs, shares = [read_BX.contiguous() for read_BX in _inputs(crosscoder, x_BX)], [], []
    for read_BX in inputs:
        rough_BX, norm_B, error_B = kernels.rounded(read_BX)
        rough_BX[:, read_BX.shape[1]] = _rounded_up(norm_B)
        rough_inputs.append(rough_BX)
        shares.append((error_B / norm_B.clamp_min(torch.finfo(norm_B.dtype).tiny)).amax())

    def found_in(index: int, latents: slice, W: Tensor, out_FB: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rough_FX, norm_F, error_F = kernels.rounded(W)
        # The last part is what summing in fp32 can add, in whatever order.
        margin_F = error_F + (shares[index] + (W.shape[1] + 1) * FP32_ROUNDING) * norm_F
        rough_FX[:, W.shape[1]] = _rounded_up(SLACK * margin_F)
        bias_F = crosscoder.b_enc_F[latents]
        limit_F = floor_F[latents] - bias_F
        # The product is rounded once more.
        limit_F -= limit_F.abs() * (SLACK * BF16_ROUNDING)
        torch.mm(rough_FX, rough_inputs[index].T, out=out_FB)
        latent_N, token_N, _ = kernels.survivors(out_FB, limit_F)
        value_N = kernels.row_dots(inputs[index], W, token_N, latent_N) + bias_F[latent_N]
        return latent_N + latents.start, token_N, value_N

    return _joined(crosscoder, x_BX, [found_in(*piece) for piece in _pieces(crosscoder, x_BX, torch.bfloat16)])


def _rounded_up(norm_R: Tensor) -> Tensor:
    return (norm_R * (1 + 2 * BF16_ROUNDING)).bfloat16()


def _joined(crosscoder: Crosscoder, x_BX: Tensor, found: list[tuple[Tensor, Tensor, Tensor]]) -> Candidates:
    """Latents, tokens and values of all pieces."""
    latent_N, token_N, value_N = map(torch.cat, zip(*found, strict=True))
    return Candidates(latent_N, token_N, value_N.to(x_BX.dtype), len(x_BX), crosscoder.num_latents)


def _inputs(crosscoder: Crosscoder, x_BX: Tensor) -> list[Tensor]:
    """What each group reads."""
    return [x_BX[:, crosscoder.columns_read(group)] for group in crosscoder.wiring.groups]


def _pieces(crosscoder: Crosscoder, x_BX: Tensor, dtype: torch.dtype) -> Iterator[tuple[int, slice, Tensor, Tensor]]:
    """Some latents of one group at a time: its index, which they are, their rows, and where their product can go."""
    num_tokens = len(x_BX)
    step = piece_latents(num_tokens, x_BX.device.type)
    buffer = x_BX.new_empty(min(step, crosscoder.num_latents) * num_tokens, dtype=dtype)
    for index, latents in enumerate(crosscoder.wiring.latent_slices.values()):
        W = crosscoder.encoder_weight(index)
        for start in range(0, len(W), step):
            rows, first = W[start : start + step], latents.start + start
            out_FB = buffer[: len(rows) * num_tokens].view(len(rows), num_tokens)
            yield index, slice(first, first + len(rows)), rows, out_FB
