"""How a transformers model is asked to read the documents of a row each by itself.

Two ways are known. Most decoders, given positions that begin anew and no mask, let the library make the masks of every
kind of layer, sliding windows included, and flash attention its lengths. Others take a mask of all tokens against all.
Which one a model follows is tried, on the first row that needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from crosscoders import ConfigError, TokenBatch, documents_are_apart

Layout = Callable[[TokenBatch], dict[str, Any]]
"""Makes the keywords of a forward pass that keeps documents apart."""


def positions_within(document_BT: Tensor) -> Tensor:
    """For each token the number of tokens before it of the same document; 0 for padding.

    So every padding token is a document by itself, and no table of positions needs room for a run of them.
    """
    column_T = torch.arange(document_BT.shape[1], device=document_BT.device)
    begins_BT = torch.ones_like(document_BT, dtype=torch.bool)
    begins_BT[:, 1:] = document_BT[:, 1:] != document_BT[:, :-1]
    first_BT = torch.where(begins_BT, column_T, 0).cummax(dim=1).values
    return torch.where(document_BT < 0, 0, column_T - first_BT)


class Apart:
    """Keywords for a model's forward pass on packed rows.

    `forward` runs the model on rows and returns activations deep in it, (B, T, D). `ConfigError` where no way of asking
    makes the model read each document as if it were alone: models with a state, or with positions made from the mask.
    """

    def __init__(
        self, model: Any, names: set[str], *, causal: bool, forward: Callable[[TokenBatch], Tensor], name: str
    ) -> None:
        self.model, self.names, self.causal, self.forward, self.name = model, names, causal, forward, name
        self.layout: Layout | None = None

    @property
    def flat(self) -> bool:
        """Whether rows are run as a single long one: what flash attention takes lengths of documents for."""
        return str(getattr(self.model.config, "_attn_implementation", "")).startswith("flash")

    def keywords(self, tokens: TokenBatch) -> dict[str, Any]:
        """`input_ids`, `attention_mask` and, if the model takes them, `position_ids` for packed rows (B, T).

        They are those of one row of B·T tokens if `flat`.
        """
        if self.layout is None:
            self._find(tokens)
        assert self.layout is not None
        keywords = {"input_ids": tokens.ids, **self.layout(tokens)}
        if self.flat:
            keywords = {key: None if value is None else value.reshape(1, -1) for key, value in keywords.items()}
        return keywords

    def _find(self, tokens: TokenBatch) -> None:
        for layout in self._layouts():
            self.layout = layout
            try:
                if documents_are_apart(self.forward, tokens):
                    return
            except (ValueError, RuntimeError, TypeError, IndexError):
                pass  # such a mask is not for this family
            self.layout = None
        raise ConfigError(
            f"the model '{self.name}' ({type(self.model).__name__}) cannot read several documents in a row each by "
            "itself; use pack = false, or pack = 'across' to let it read over their ends"
        )

    def _layouts(self) -> Iterator[Layout]:
        takes_positions = "position_ids" in self.names
        if takes_positions and self.causal:
            yield self._by_positions
        if self.flat:
            return  # lengths are all that flash attention takes
        if takes_positions:
            yield lambda tokens: self._by_mask(tokens, 0)
        if takes_positions and not self.causal:
            # CLIP's tower of text gives no logits and looks back alone.
            yield lambda tokens: self._by_mask(tokens, 0, back=True)
        # RoBERTa and its kin count positions from the one after padding's.
        padding = getattr(self.model.config, "pad_token_id", None)
        if takes_positions and not self.causal and padding is not None:
            yield lambda tokens: self._by_mask(tokens, padding + 1)
        if not takes_positions:
            yield lambda tokens: self._by_mask(tokens, None)

    def _by_positions(self, tokens: TokenBatch) -> dict[str, Any]:
        assert tokens.document is not None
        return {"attention_mask": None, "position_ids": positions_within(tokens.document)}

    def _by_mask(self, tokens: TokenBatch, first_position: int | None, *, back: bool = False) -> dict[str, Any]:
        document_BT = tokens.document
        assert document_BT is not None
        seen_BTT = document_BT[:, :, None] == document_BT[:, None, :]
        if self.causal or back:
            seen_BTT = seen_BTT.tril()
        dtype = self.model.dtype
        mask_B1TT = torch.zeros_like(seen_BTT, dtype=dtype).masked_fill_(~seen_BTT, torch.finfo(dtype).min)[:, None]
        if first_position is None:
            return {"attention_mask": mask_B1TT}
        return {"attention_mask": mask_B1TT, "position_ids": positions_within(document_BT) + first_position}
