"""Which tokens' activations are used. A token is kept at all sites or at none, so rows stay paired."""

from __future__ import annotations

from attrs import field, frozen
from attrs.validators import ge
from torch import Tensor

from ..models.tokens import TokenBatch


@frozen(kw_only=True)
class MaskConfig:
    """Tokens to leave out. Padding always is."""

    drop_bos: bool = True
    """Leave out beginning-of-sequence tokens, whose norms are many times the usual."""
    drop_special: bool = False
    """Leave out every special token, chat-template tokens included."""
    max_norm_multiple: float = field(default=10.0, validator=ge(0.0))
    """Leave out tokens whose norm exceeds this many times the site's median norm at any site; 0 keeps them all.

    Attention sinks of later Qwen layers exceed 100 times and cost explained variance and dead latents.
    """


def keep_mask(config: MaskConfig, tokens: TokenBatch, norms_BTS: Tensor, median_norm_S: Tensor | None) -> Tensor:
    """Boolean (B, T): tokens to keep. Those without partner in some model never are; norms are compared only where a
    median is known."""
    keep_BT = tokens.attention.clone()
    if config.drop_bos:
        keep_BT &= ~tokens.bos
    if config.drop_special:
        keep_BT &= ~tokens.special
    for partner in tokens.partners.values():
        keep_BT &= partner.position_BT >= 0
        if config.drop_bos:
            keep_BT &= ~partner.gather(partner.tokens.bos)
        if config.drop_special:
            keep_BT &= ~partner.gather(partner.tokens.special)
    if config.max_norm_multiple and median_norm_S is not None:
        limit_S = config.max_norm_multiple * median_norm_S.to(norms_BTS.device)
        keep_BT = keep_BT.to(norms_BTS.device) & (norms_BTS <= limit_S).all(dim=-1)
    return keep_BT.to(norms_BTS.device)
