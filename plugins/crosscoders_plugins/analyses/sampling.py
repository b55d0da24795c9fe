"""Sampling from the amplified difference of two models that share a tokenizer.

logits_amp = logits_after + α (logits_after − logits_before), at each step on the same growing context (Aranguri and
McGrath 2025). α = 0 is the model after, α = −1 the model before. For two tokens, odds_amp = odds_after · (odds_after /
odds_before)^α exactly, the odds being those of one against the other. For one token against all others it is exact only
where α leaves the others' proportions alone; in general odds_amp = p_after r^α / Σ_others p_after r^α with r =
p_after / p_before of each token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from attrs import field, frozen
from attrs.validators import and_, ge, gt, le
from torch import Tensor

from crosscoders import Decoder
from crosscoders.authoring import accumulator, drawn, left_padded, precise


def amplified(after_BV: Tensor, before_BV: Tensor, alpha: float, *, plausibility: float = 0.0) -> Tensor:
    """Compute amplified logits. Vocabularies that are padded to different sizes are cut to the smaller one.

    With `plausibility` β, only tokens with p_after ≥ β · max p_after remain possible.
    """
    size = min(after_BV.shape[-1], before_BV.shape[-1])
    after_BV, before_BV = after_BV[..., :size], before_BV[..., :size]
    # Compute a weighted sum, so that α = 0 and α = −1 give the logits of either model exactly.
    logits_BV = (1 + alpha) * after_BV - alpha * before_BV
    if plausibility > 0:
        p_BV = after_BV.softmax(dim=-1)
        logits_BV = logits_BV.masked_fill(p_BV < plausibility * p_BV.amax(dim=-1, keepdim=True), float("-inf"))
    return logits_BV


@frozen(kw_only=True)
class SamplingConfig:
    """How tokens are drawn from logits."""

    temperature: float = field(default=1.0, validator=ge(0.0))
    """Temperature of sampling; 0 takes the most likely token."""
    top_p: float = field(default=1.0, validator=and_(gt(0.0), le(1.0)))
    """Sample only from the smallest set of most likely tokens with at least this total probability."""
    min_p: float = field(default=0.0, validator=and_(ge(0.0), le(1.0)))
    """Sample only from tokens with at least this probability relative to the most likely one."""
    plausibility: float = field(default=0.0, validator=and_(ge(0.0), le(1.0)))
    """Threshold β of the plausibility mask, which depends only on the model after fine-tuning; 0 disables it."""
    max_new_tokens: int = field(default=40, validator=ge(1))
    """Largest number of tokens in an answer."""
    amplified_tokens: int = field(default=0, validator=ge(0))
    """Amplify only this many tokens at the start of an answer, then continue with α = 0; 0 amplifies all tokens."""


@frozen(eq=False)
class Samples:
    """Answers, and how likely they are under each model."""

    ids: list[list[int]]
    """Token ids of each answer, without its end token."""
    nll_after: Tensor
    """Mean negative log-likelihood per token under the model after fine-tuning, in nats, (rows,)."""
    nll_before: Tensor
    """Mean negative log-likelihood per token under the model before fine-tuning, in nats, (rows,)."""


class Answers(Protocol):
    """What can answer: a model adapter, or one that runs changed."""

    def decoder(self) -> Decoder:
        """See `ModelAdapter`."""

    def end_tokens(self) -> frozenset[int]:
        """See `ModelAdapter`."""


@torch.no_grad()
def sample(
    after: Answers,
    before: Answers,
    prompts: Sequence[Sequence[int]],
    *,
    alpha: float,
    config: SamplingConfig,
    generator: torch.Generator,
    device: torch.device,
    prompts_before: Sequence[Sequence[int]] | None = None,
) -> Samples:
    """Sample one answer to each prompt (token ids), all in one left-padded batch with a cache for each model.

    The model before fine-tuning reads `prompts_before` instead, if given, and then the same answers.
    """
    reads = [[tensor.to(device) for tensor in left_padded(read)] for read in (prompts, prompts_before or prompts)]
    ends = torch.tensor(sorted(after.end_tokens()), dtype=torch.int64, device=device)
    same = after is before and prompts_before is None
    readers = [after.decoder()] if same else [after.decoder(), before.decoder()]
    going = torch.ones(len(prompts), dtype=torch.bool, device=device)
    nll = torch.zeros(2, len(prompts), **accumulator(device))
    lengths = torch.zeros(len(prompts), dtype=torch.int64, device=device)
    answers: list[Tensor] = []
    for number in range(config.max_new_tokens):
        logits = [reader.advance(*read) for reader, read in zip(readers, reads, strict=False)]
        after_BV, before_BV = logits[0], logits[-1]
        strength = alpha if not config.amplified_tokens or number < config.amplified_tokens else 0.0
        drawn_B = _draw(amplified(after_BV, before_BV, strength, plausibility=config.plausibility), config, generator)
        for i, logits_BV in enumerate((after_BV, before_BV)):
            logprob = logits_BV.log_softmax(dim=-1).gather(1, drawn_B[:, None]).squeeze(1)
            nll[i] -= precise(torch.where(going, logprob, 0.0))
        lengths += going
        ended = torch.isin(drawn_B, ends)
        answers.append(torch.where(going & ~ended, drawn_B, -1))
        going = going & ~ended
        if not bool(going.any()):
            break
        reads = [[drawn_B[:, None], torch.ones(len(prompts), 1, dtype=torch.bool, device=device)]] * 2
    table = torch.stack(answers, dim=1).tolist()
    return Samples(
        [[token for token in row if token >= 0] for row in table],
        nll[0].cpu() / lengths.cpu(),
        nll[1].cpu() / lengths.cpu(),
    )


def _draw(logits_BV: Tensor, config: SamplingConfig, generator: torch.Generator) -> Tensor:
    if config.temperature == 0:
        return logits_BV.argmax(dim=-1)
    return drawn(filtered(logits_BV, config), generator)


def filtered(logits_BV: Tensor, config: SamplingConfig) -> Tensor:
    """Probabilities after temperature, min-p and top-p."""
    p_BV = (logits_BV / config.temperature).softmax(dim=-1)
    if config.min_p > 0:
        p_BV = p_BV.masked_fill(p_BV < config.min_p * p_BV.amax(dim=-1, keepdim=True), 0.0)
    if config.top_p < 1:
        sorted_BV, order_BV = p_BV.sort(dim=-1, descending=True)
        # A token stays if the probability mass before it is below top_p, so the most likely one always stays.
        before_BV = sorted_BV.cumsum(dim=-1) - sorted_BV
        kept_BV = sorted_BV.masked_fill(before_BV >= config.top_p * sorted_BV.sum(dim=-1, keepdim=True), 0.0)
        p_BV = torch.zeros_like(p_BV).scatter_(1, order_BV, kept_BV)
    return p_BV / p_BV.sum(dim=-1, keepdim=True)
