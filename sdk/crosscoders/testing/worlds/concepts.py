"""When concepts fire: alone, under a parent, by the topic of a document, by the document itself."""

from __future__ import annotations

import torch
from torch import Tensor

from .hashing import normal, uniform

FIRING, TOPIC, DOCUMENT = 1, 21, 22
"""Streams of random numbers."""


def zipf_rates(u_C: Tensor, largest: float, smallest: float, exponent: float) -> Tensor:
    """Rates that fall with the rank of a concept, ranks being those of `u_C`: largest / rank^exponent, (C,)."""
    rank_C = u_C.argsort(descending=True).argsort() + 1
    return (largest / rank_C.to(u_C.dtype) ** exponent).clamp_min(smallest)


def firing(
    ids_B: Tensor, rates_C: Tensor, *, parents: tuple[Tensor, Tensor], topic_C: Tensor, num_topics: int,
    topic_share: float, document_effect: float, document_tokens: int,
) -> Tensor:  # fmt: skip
    """Which concepts fire for token ids, boolean (B, C). The mean rate of each over all documents is its own.

    A child fires where its parent does and a number of its own is below its rate there; topics and documents act on
    parents and on concepts without one.
    """
    parent_C, child_rate_C = parents
    chance_BC = rates_C.expand(len(ids_B), -1)
    document_B = torch.div(ids_B, document_tokens, rounding_mode="floor")
    if num_topics:
        topic_B = (uniform(document_B, 1, stream=TOPIC)[:, 0] * num_topics).long()
        inside_BC = topic_B[:, None] == topic_C
        chance_BC = chance_BC * (1 - topic_share + topic_share * num_topics * inside_BC)
    if document_effect:
        # The factor's mean is 1.
        document_U, of_B = torch.unique_consecutive(document_B, return_inverse=True)
        log_UC = document_effect * normal(document_U, len(rates_C), stream=DOCUMENT) - document_effect**2 / 2
        chance_BC = chance_BC * log_UC.exp()[of_B]
    u_BC = uniform(ids_B, len(rates_C), stream=FIRING)
    fires_BC = u_BC < chance_BC
    if not bool((parent_C >= 0).any()):
        return fires_BC
    return torch.where(parent_C >= 0, fires_BC[:, parent_C] & (u_BC < child_rate_C), fires_BC)
