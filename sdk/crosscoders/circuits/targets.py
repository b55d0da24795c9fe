"""What a graph explains: logits of tokens, differences of two of them, or any direction at the point `final`.

A token's logit counts against the mean of all logits, since adding the same to all of them changes no prediction, and
before the cap of models that soft-cap their logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from ..devices import precise
from ..errors import AnalysisError, shown
from ..models.documents import Text
from ..models.linear import Linearisable, Readout


@frozen
class Difference:
    """The logit of one token less that of another, each an id or the text of one token."""

    more: int | str
    less: int | str


@frozen(eq=False)
class Direction:
    """A direction (D,) at `final`, with a name."""

    label: str
    vector_D: Tensor


Asked = int | str | Difference | Direction
"""One target: a token by id or text, a `Difference`, or a `Direction`."""


@frozen(eq=False)
class Target:
    """A target with its direction."""

    label: str
    kind: str
    """`token`, `difference` or `direction`."""
    vector_D: Tensor
    """In fp32; its product with `final`, plus `constant`, is what is explained."""
    constant: float
    """What the output embedding's bias adds."""
    weight: float
    """How much it counts among the targets: a token's probability, 1 for others."""
    token: int | None = None
    """The token's id."""


def find_targets(
    asked: Sequence[Asked] | None,
    logits_V: Tensor,
    readout: Readout,
    adapter: Linearisable,
    *,
    top_p: float = 0.95,
    max_targets: int = 10,
) -> list[Target]:
    """The targets that are meant, tokens by their logits `logits_V` at the position explained.

    None stands for the most probable tokens: as few as reach the probability `top_p`, `max_targets` at most.
    """
    probability_V = precise(logits_V).softmax(dim=0)
    if asked is None:
        if not 0 < top_p <= 1 or max_targets < 1:
            raise AnalysisError(f"top_p must be in (0, 1] and max_targets at least 1, not {top_p} and {max_targets}")
        top = probability_V.topk(min(max_targets, len(probability_V)))
        needed = int((top.values.cumsum(0) < top_p).sum()) + 1
        asked = top.indices[:needed].tolist()
    if isinstance(asked, str | int) or not len(asked):
        raise AnalysisError(f"targets should be a list with at least one token, difference or direction, not {asked!r}")
    mean_D, mean = readout.mean_row(), readout.mean_constant()

    def token_target(token: int, label: str) -> Target:
        ids = torch.tensor([token])
        row_D, constant = readout.rows(ids)[0] - mean_D, float(readout.constants(ids)[0]) - mean
        return Target(label, "token", row_D, constant, float(probability_V[token]), token)

    found = []
    for one in asked:
        if isinstance(one, Direction):
            vector_D = one.vector_D.detach().to(mean_D)
            if vector_D.shape != mean_D.shape or not bool(torch.isfinite(vector_D).all()):
                raise AnalysisError(
                    f"the direction '{one.label}' should be {len(mean_D)} finite numbers, not {tuple(vector_D.shape)}"
                )
            found.append(Target(one.label, "direction", vector_D, 0.0, 1.0))
        elif isinstance(one, Difference):
            more, less = (token_target(*_token(each, readout, adapter)) for each in (one.more, one.less))
            label = f"{more.label} − {less.label}"
            found.append(Target(label, "difference", more.vector_D - less.vector_D, more.constant - less.constant, 1.0))
        else:
            found.append(token_target(*_token(one, readout, adapter)))
    tokens = [one.token for one in found if one.token is not None]
    if len(set(tokens)) < len(tokens):
        raise AnalysisError(f"a token is asked for twice among the targets {shown(list(asked))}")
    return found


def _token(asked: Any, readout: Readout, adapter: Linearisable) -> tuple[int, str]:
    """A token's id and text."""
    if isinstance(asked, bool) or not isinstance(asked, int | str):
        raise AnalysisError(f"a target is a token's id or text, a Difference or a Direction, not {shown(asked)}")
    if isinstance(asked, str):
        tokens = adapter.tokenize(Text(asked))
        own = [i for i, bos, special in zip(tokens.ids, tokens.bos, tokens.special, strict=True) if not bos]
        if len(own) != 1:
            texts = ", ".join(repr(text) for text in adapter.token_texts(own))
            raise AnalysisError(f"the target {asked!r} should be one token, but it is {len(own)}: {texts or 'none'}")
        asked = own[0]
    if not 0 <= asked < readout.vocabulary_size:
        raise AnalysisError(f"there is no token {asked}; the model has logits for 0 to {readout.vocabulary_size - 1}")
    return asked, adapter.token_texts([asked])[0]
