"""Pulling back through no more of a prompt than matters: what comes after a position has no effect on it.

A causal model on the first tokens of a prompt is the same affine map as on all of it, at the positions that both have.
So directions in the first half of a prompt are pulled back through a model of that half, those in its first quarter
through one of that, and so on: half as many tokens, half the work.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..models.linear import FINAL, Linear
from ..models.tokens import TokenBatch

SHORTEST = 8
"""Tokens below which another forward pass costs more than it saves."""


class Prefixes:
    """A prompt of T tokens, linearised whole and, where it is asked for, on its first T/2, T/4, ... tokens.

    `linearise` gives the affine map of a row of tokens, `whole` is that of the prompt.
    """

    def __init__(self, tokens: TokenBatch, whole: Linear, linearise: Callable[[TokenBatch], Linear]) -> None:
        self._tokens, self._linearise = tokens, linearise
        self._made: dict[int, Linear] = {tokens.ids.shape[1]: whole}
        self._whole = whole

    def length(self, position: int) -> int:
        """The number of tokens through which a direction at `position` is pulled back."""
        length = found = self._tokens.ids.shape[1]
        while (length := (length + 1) // 2) > position and length >= SHORTEST:
            found = length
        return found

    def pull(self, point: str, vector_RD: Tensor, position_R: Tensor) -> dict[str, Tensor]:
        """As `Linear.pull`, with derivatives at as many positions as the last of `position_R` needs, or more."""
        length = self.length(int(position_R.max()))
        if length not in self._made:
            self._made[length] = self._first(length)
        return self._made[length].pull(point, vector_RD, position_R)

    def _first(self, length: int) -> Linear:
        linear = self._linearise(self._tokens.mapped(lambda tensor: tensor[:, :length]))
        found_TD, expected_TD = (one.values[FINAL][:length].float() for one in (linear, self._whole))
        tolerance = 1e-4 if self._whole.values[FINAL].dtype == torch.float32 else 0.05
        # Where positions are encoded by the length of the prompt, its beginning alone is another map.
        same = float((found_TD - expected_TD).norm()) <= tolerance * float(expected_TD.norm())
        return linear if same else self._whole
