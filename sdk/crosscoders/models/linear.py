"""What circuits ask of a model: its forward pass with everything held that is not linear, as optional protocols.

With the attention patterns and the denominators of norms held, and the outputs of MLPs cut, what remains of a
transformer on one prompt is affine: exact effects of one place on another are pulled back through it. An adapter that
offers this is a `Linearisable` besides a `ModelAdapter`; whether one is, `isinstance` tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from attrs import frozen

from .adapter import Edit, LanguageModel
from .tokens import TokenBatch

if TYPE_CHECKING:
    import torch
    from torch import Tensor

EMBEDDING = "layers.0.input"
"""The point at which a linearised model begins: embeddings of tokens, of positions too where the model adds them."""
FINAL = "final"
"""The point at which it ends: what the output embedding reads, after the last norm."""


@frozen(eq=False)
class Readout:
    """How logits are read from the point `final`: cap·tanh(z / cap) of z = scale·(W x + b), or z itself uncapped."""

    weight_VD: Tensor
    """The output embedding as the model holds it, one row for each token of the vocabulary."""
    bias_V: Tensor | None = None
    scale: float = 1.0
    cap: float | None = None
    """The bound of soft-capped logits."""

    @property
    def vocabulary_size(self) -> int:
        """V, the number of logits, which may be more than the tokenizer has tokens."""
        return len(self.weight_VD)

    def rows(self, ids: Tensor) -> Tensor:
        """Directions (K, D) in fp32 whose product with `final` are the logits before the cap, but for `constants`."""
        return self.weight_VD[ids.to(self.weight_VD.device)].float() * self.scale

    def constants(self, ids: Tensor) -> Tensor:
        """What the bias adds to these logits before the cap, (K,) in fp32."""
        if self.bias_V is None:
            return self.weight_VD.new_zeros(len(ids)).float()
        return self.bias_V[ids.to(self.bias_V.device)].float() * self.scale

    def mean_row(self) -> Tensor:
        """The mean of the rows of all tokens, (D,), summed in pieces."""
        total_D = self.weight_VD.new_zeros(self.weight_VD.shape[1]).float()
        for start in range(0, len(self.weight_VD), 2**14):
            total_D += self.weight_VD[start : start + 2**14].float().sum(dim=0)
        return total_D * (self.scale / len(self.weight_VD))

    def mean_constant(self) -> float:
        """The mean of what the bias adds to the logits of all tokens."""
        return 0.0 if self.bias_V is None else float(self.bias_V.float().mean()) * self.scale


class Held(Protocol):
    """A model whose attention patterns and norms' denominators are those of one row of tokens, whatever is edited."""

    def logits(self, edits: Sequence[Edit] = (), *, attention: bool = True, norms: bool = True) -> Tensor:
        """Logits (1, T, V) of the row with `edits`, each of which sees and returns activations (1, T, D).

        `attention` and `norms` say what is held. An edit that returns what it is given records activations.
        """


class Linear(Protocol):
    """The affine map that a model is on one row of tokens, with values at its places, each (T, D)."""

    values: Mapping[str, Tensor]
    """Activations at `layers.0.input`, at the cuts before they are cut, at the places read, and at `final`."""
    logits: Tensor
    """Logits (T, V), the same to the bit as those of the model itself."""
    held: Held
    """The same model, still held, to be run with edits."""

    def pull(self, point: str, vector_RD: Tensor, position_R: Tensor) -> dict[str, Tensor]:
        """How ⟨vector, activation at `point` and position⟩ depends on what lies before.

        For `layers.0.input` and each cut before `point` the derivative (R, T, D) in fp32. It is exact for changes of
        any size, since the map is affine.
        """


@runtime_checkable
class Linearisable(LanguageModel, Protocol):
    """An adapter of a language model whose forward pass can be linearised on one row of tokens.

    `points()` ends with `final`. `ConfigError` names what in a model cannot be held; whatever can is exact.
    """

    def linearise(
        self, tokens: TokenBatch, *, cuts: Mapping[str, Mapping[str, Tensor]], reads: Sequence[str] = ()
    ) -> Linear:
        """The model on one unpadded row, with patterns and denominators held and the activations at `cuts` cut.

        Nothing is pulled back past a cut, except through its skip maps: `cuts` has, for each point, matrices
        (D there, D read) by the point that they read.
        """

    def hold(self, tokens: TokenBatch) -> Held:
        """The model with patterns and denominators held at those of one unpadded row."""

    def readout(self) -> Readout:
        """How logits come from the point `final`."""


def one_row(ids: Sequence[int], device: torch.device | None = None) -> TokenBatch:
    """One unpadded row of these token ids, none of them marked."""
    import torch

    ids_1T = torch.tensor([list(ids)], dtype=torch.int64, device=device)
    none_1T = torch.zeros_like(ids_1T, dtype=torch.bool)
    return TokenBatch(ids_1T, ~none_1T, none_1T, none_1T)
