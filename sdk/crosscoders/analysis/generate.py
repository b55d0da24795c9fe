"""Text from a decoder: one left-padded batch, the cache kept, sampled or greedy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..devices import precise
from ..models.adapter import Decoder


def left_padded(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Token ids and where they are, (B, T), prompts ending together."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.zeros(len(prompts), width, dtype=torch.int64)
    attention = torch.zeros(len(prompts), width, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        attention[row, width - len(prompt) :] = True
    return ids, attention


def drawn(p_BV: Tensor, generator: torch.Generator) -> Tensor:
    """One token of each row's distribution, (B,); rows need not sum to 1.

    By inverting the cumulative distribution at one uniform number per row, drawn on the CPU: a seed gives the same
    tokens on every device.
    """
    cumulative_BV = precise(p_BV).cumsum(dim=-1)
    u_B1 = torch.rand(len(p_BV), 1, generator=generator, dtype=cumulative_BV.dtype).to(cumulative_BV.device)
    token_B1 = torch.searchsorted(cumulative_BV, u_B1 * cumulative_BV[:, -1:], right=True)
    return token_B1.squeeze(1).to(p_BV.device)


@torch.no_grad()
def generate(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    *,
    ends: frozenset[int],
    device: torch.device,
    max_new_tokens: int = 40,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[list[int]]:
    """Token ids that go on from each prompt, the end token left out; `temperature` 0 takes the most likely token."""
    ids, attention = (tensor.to(device) for tensor in left_padded(prompts))
    end_tokens = torch.tensor(sorted(ends), dtype=torch.int64, device=device)
    generator = torch.Generator().manual_seed(seed)
    going = torch.ones(len(prompts), dtype=torch.bool, device=device)
    answers: list[Tensor] = []
    for _ in range(max_new_tokens):
        logits_BV = decoder.advance(ids, attention)
        if temperature > 0:
            drawn_B = drawn(precise(logits_BV / temperature).softmax(dim=-1), generator).to(device)
        else:
            drawn_B = logits_BV.argmax(dim=-1)
        going = going & ~torch.isin(drawn_B, end_tokens)
        answers.append(torch.where(going, drawn_B, -1))
        if not bool(going.any()):
            break
        ids, attention = drawn_B[:, None], torch.ones(len(prompts), 1, dtype=torch.bool, device=device)
    table = torch.stack(answers, dim=1).tolist() if answers else [[] for _ in prompts]
    return [[token for token in row if token >= 0] for row in table]


class AmplifiedLogits:
    """A decoder of two models that read the same tokens: (1 + α) logits_after − α logits_before at each step.

    α = 0 is the model after, α = −1 the model before. Vocabularies padded to different sizes are cut to the smaller.
    """

    def __init__(self, after: Decoder, before: Decoder, alpha: float) -> None:
        self.after, self.before, self.alpha = after, before, alpha

    def advance(self, ids: Tensor, attention: Tensor) -> Tensor:
        """Read the next tokens in both models; logits (B, V)."""
        after_BV, before_BV = self.after.advance(ids, attention), self.before.advance(ids, attention)
        size = min(after_BV.shape[-1], before_BV.shape[-1])
        return (1 + self.alpha) * after_BV[..., :size] - self.alpha * before_BV[..., :size]
