"""Which tokens' activations are used. A token is kept at all sites or at none, so rows stay paired."""

from __future__ import annotations

from attrs import field, frozen
from attrs.validators import deep_iterable, ge, in_
from torch import Tensor

from ..converters import as_tuple
from ..models.documents import ROLES
from ..models.tokens import TokenBatch


@frozen(kw_only=True)
class MaskConfig:
    """Which tokens to mask. Padding is always masked."""

    drop_bos: bool = True
    """Mask beginning-of-sequence tokens, whose norms are many times larger than usual."""
    drop_special: bool = False
    """Mask every special token, including those of the chat template."""
    roles: tuple[str, ...] = field(default=(), converter=as_tuple, validator=deep_iterable(in_(ROLES)))
    """Of conversations, mask what none of these roles says: `["assistant"]` keeps answers, up to the token that ends
    them; of other roles it is the content alone. Text that is not a conversation is kept. Empty keeps all."""
    max_norm_multiple: float = field(default=10.0, validator=ge(0.0))
    """Mask tokens whose norm at any site exceeds this multiple of that site's median norm; 0 keeps them all.

    Attention sinks in later Qwen layers reach more than 100 times the median norm; training on them lowers explained
    variance and leaves more latents dead.
    """


def keep_mask(config: MaskConfig, tokens: TokenBatch, norms_BTS: Tensor, median_norm_S: Tensor | None) -> Tensor:
    """Boolean mask (B, T) of the tokens to keep.

    Tokens without a partner in some model are never kept. Norms are compared only if medians are known.
    """
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
    if tokens.wanted is not None:
        keep_BT &= tokens.wanted
    if config.max_norm_multiple and median_norm_S is not None:
        limit_S = config.max_norm_multiple * median_norm_S.to(norms_BTS.device)
        keep_BT = keep_BT.to(norms_BTS.device) & (norms_BTS <= limit_S).all(dim=-1)
    return keep_BT.to(norms_BTS.device)
