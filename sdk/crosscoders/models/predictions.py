"""Next-token predictions of a model and of the same model changed: losses and divergence, token by token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property

import torch
from attrs import frozen
from torch import Tensor

from .adapter import Edit, ModelAdapter
from .capabilities import gives_logits
from .tokens import TokenBatch

LOGITS_AT_A_TIME = 2**25
"""Rows go through a model in pieces of about this many logits: 128 MB in fp32."""


@frozen(eq=False, slots=False)
class Piece:
    """Some rows of a batch as one model reads them, with a function from edits to what it then predicts."""

    rows: slice
    tokens: TokenBatch
    """The model's own tokens of these rows."""
    predicts_BT: Tensor
    """Boolean: places whose next token is known."""
    clean_NV: Tensor
    """log p of the next token at those places, of the model as it is."""
    changed: Callable[[Sequence[Edit]], Tensor]
    """The same with edits."""

    @property
    def next_N(self) -> Tensor:
        """The next tokens' ids."""
        return self.tokens.ids.roll(-1, dims=1)[self.predicts_BT]

    def loss(self, logp_NV: Tensor) -> Tensor:
        """−log p of the next token, nats, (N,); NaN where ids lie outside the logits, as in planted worlds."""
        next_N = self.next_N.to(logp_NV.device)
        inside_N = next_N < logp_NV.shape[1]
        loss_N = -logp_NV.gather(1, (next_N * inside_N)[:, None]).squeeze(1)
        return loss_N.masked_fill(~inside_N, float("nan"))

    def divergence(self, logp_NV: Tensor, of: Tensor | None = None) -> Tensor:
        """KL(clean ‖ changed) in nats, (N,); with `of`, KL(of ‖ changed).

        Where another model's vocabulary is padded to another size, both are cut to the smaller one.
        """
        clean_NV, p_NV = (self.clean_NV, self._p_clean_NV) if of is None else (of, of.exp())
        size = min(clean_NV.shape[1], logp_NV.shape[1])
        if size < max(clean_NV.shape[1], logp_NV.shape[1]):
            clean_NV, logp_NV = (each[:, :size].log_softmax(dim=-1) for each in (clean_NV, logp_NV))
            p_NV = clean_NV.exp()
        # Tokens that both exclude, −∞ − −∞, add nothing.
        difference_NV = (clean_NV - logp_NV).masked_fill_(p_NV == 0, 0.0)
        kl_N: Tensor = torch.einsum("nv,nv->n", p_NV, difference_NV)
        return kl_N.clamp_min(0.0)

    @cached_property
    def _p_clean_NV(self) -> Tensor:
        return self.clean_NV.exp()


@torch.no_grad()
def pieces(adapter: ModelAdapter, key: str, tokens: TokenBatch) -> Iterator[Piece]:
    """Run the model called `key` over `tokens`, some rows at a time; `ConfigError` where it gives no logits."""
    predicting = gives_logits(adapter, f"the loss of the model '{key}'")
    partner = tokens.partners.get(key)
    own = partner.tokens if partner else tokens
    start, count, num_rows = 0, 1, len(own.ids)
    while start < num_rows:
        part = own.sequences(start, start + count)
        predicts_BT = part.attention.clone()
        predicts_BT[:, :-1] &= part.attention[:, 1:]
        predicts_BT[:, -1] = False
        if part.document is not None:
            # Where documents share a row, the last token of one does not predict the first of the next.
            predicts_BT[:, :-1] &= part.document[:, :-1] == part.document[:, 1:]

        def run(edits: Sequence[Edit], part: TokenBatch = part, predicts_BT: Tensor = predicts_BT) -> Tensor:
            logits_BTV = predicting.logits(part, edits)
            # By number, which takes half the time of a mask.
            place_N = predicts_BT.flatten().nonzero()[:, 0].to(logits_BTV.device)
            return logits_BTV.flatten(0, 1).index_select(0, place_N).float().log_softmax(dim=-1)

        clean_NV = run(())
        yield Piece(slice(start, start + len(part.ids)), part, predicts_BT, clean_NV, run)
        start += len(part.ids)
        # The first piece, one row, tells how many logits a row has.
        count = max(1, LOGITS_AT_A_TIME // (own.ids.shape[1] * clean_NV.shape[-1]))


def moves(key: str, tokens: TokenBatch, rows: slice, by_point: Mapping[str, Tensor]) -> list[Edit]:
    """Edits that move activations of the model called `key` by (B, T, D) at each point.

    Given at the reading model's tokens; a model with tokens of its own is moved where they are paired.
    """
    return [Edit.add(point, _at_own(key, tokens, rows, move_BTD)) for point, move_BTD in by_point.items()]


def puts(key: str, tokens: TokenBatch, rows: slice, by_point: Mapping[str, Tensor], keep_BT: Tensor) -> list[Edit]:
    """Edits that put values (B, T, D) in the place of activations at each point, where `keep_BT` is true."""
    mask_BT1 = _at_own(key, tokens, rows, keep_BT[..., None])
    edits = []
    for point, value_BTD in by_point.items():
        value = _at_own(key, tokens, rows, value_BTD)

        def put(activation: Tensor, value: Tensor = value) -> Tensor:
            return torch.where(mask_BT1.to(activation.device), value.to(activation), activation)

        edits.append(Edit(point, put))
    return edits


def _at_own(key: str, tokens: TokenBatch, rows: slice, value_BTD: Tensor) -> Tensor:
    """From the reading model's tokens to those of the model called `key`; 0 where they are not paired."""
    value, partner = value_BTD[rows], tokens.partners.get(key)
    if partner is None:
        return value
    position_BT = partner.position_BT[rows].to(value.device)
    own = value.new_zeros(len(value), partner.tokens.ids.shape[1], value.shape[2])
    row_N, at_N = (position_BT >= 0).nonzero(as_tuple=True)
    own[row_N, position_BT[row_N, at_N]] = value[row_N, at_N]
    return own
