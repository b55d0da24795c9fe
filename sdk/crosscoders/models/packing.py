"""Whether a model reads several documents in one row as it reads each alone: tried, not taken on trust.

Attention has to stop at the ends of documents and positions have to begin anew. Which models can do that, and how they
are asked, differs from family to family and from version to version of a library; so one row is compared with its
documents before rows are packed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import CrosscodersError
from .adapter import ModelAdapter
from .rows import Piece, batch_of
from .tokens import TokenBatch, Tokenized

Packing = Literal["apart", "single", "across"]
"""How rows are made: of several documents, each read as if alone; of one document each; of several, read as one."""

TOLERANCE = {torch.float32: (1e-5, 1e-3), torch.float64: (1e-5, 1e-3)}
"""By type: relative difference that is let pass always, and at most, where rounding alone makes as much."""
HALF_TOLERANCE = (2e-2, 1e-1)
"""The same where activations have few bits."""
NOISE_MULTIPLE = 4.0
"""A difference of this many times what another batch size makes of the same document is rounding."""


@torch.no_grad()
def documents_are_apart(activations: Callable[[TokenBatch], Tensor], tokens: TokenBatch) -> bool:
    """Whether a packed row has the activations of its documents, each run alone.

    `activations` gives them at some point, (B, T, D); of `tokens`, the first row with several documents is tried. In
    fp32 the difference may be 1e-5 of a token's norm, or what rounding makes of the documents themselves.
    """
    row = _first_packed(tokens)
    with _exact_products():
        packed_TD = activations(row)[0]
        worst = noise = 0.0
        assert row.document is not None
        for number in sorted(set(row.document[0].tolist())):
            here = row.document[0] == number
            if number < 0:
                continue
            alone = row.mapped(lambda tensor, here=here: tensor[:, here])  # type: ignore[misc]
            alone_TD = activations(alone)[0]
            again_TD = activations(alone.mapped(lambda tensor: tensor.repeat(2, 1)))[0]
            norm_T = alone_TD.float().norm(dim=-1)
            norm_T = norm_T.clamp_min(0.1 * float(norm_T.median())).clamp_min(1e-30)
            worst = max(worst, float(((packed_TD[here] - alone_TD).float().norm(dim=-1) / norm_T).max()))
            noise = max(noise, float(((again_TD - alone_TD).float().norm(dim=-1) / norm_T).max()))
    floor, ceiling = TOLERANCE.get(packed_TD.dtype, HALF_TOLERANCE)
    return worst <= max(floor, min(ceiling, NOISE_MULTIPLE * noise))


def keeps_documents_apart(adapter: ModelAdapter, point: str, documents: Sequence[Tokenized]) -> bool:
    """Whether `adapter` gives documents of one row the activations that each has alone, at `point`.

    False also where the adapter says that it cannot, or knows nothing of rows with several documents.
    """
    length = sum(len(tokens.ids) for tokens in documents)
    row = [Piece(number, 0, tokens, len(tokens.ids)) for number, tokens in enumerate(documents)]
    try:
        return documents_are_apart(lambda tokens: adapter.activations(tokens, [point])[point], batch_of([row], length))
    except CrosscodersError:
        return False


def _first_packed(tokens: TokenBatch) -> TokenBatch:
    own = TokenBatch(tokens.ids, tokens.attention, tokens.bos, tokens.special, {}, tokens.document)
    for row in range(len(own.ids)):
        one = own.sequences(row, row + 1)
        if one.is_packed:
            return one
    raise AssertionError("there is a row with several documents")


@contextmanager
def _exact_products() -> Iterator[None]:
    """Without the short cut that GPUs take with fp32, which would hide behind rounding what is to be seen."""
    before: Any = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
