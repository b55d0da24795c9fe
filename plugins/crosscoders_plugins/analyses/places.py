"""Where the text of a study matches regular expressions, and which latents are active there."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping
from itertools import accumulate

import torch
from attrs import frozen
from torch import Tensor

from crosscoders import Study, StudyBatch, TokenIds
from crosscoders.authoring import language_model


@frozen
class Spot:
    """One match: the document that it is in, and its tokens there."""

    document: TokenIds
    start: int
    """Its first token."""
    stop: int
    """The token after its last."""


class Places:
    """The matches in one pass over a study's tokens, and counts of the latents at them."""

    def __init__(self, study: Study, patterns: Mapping[str, re.Pattern[str]]) -> None:
        F = study.crosscoder.num_latents
        self.spots: dict[str, list[Spot]] = {name: [] for name in patterns}
        seen = study.census()
        self.firings_F, self.num_tokens, self._sum_F = seen.firings_F, seen.num_tokens, seen.sum_F
        self._at = {name: torch.zeros(F, dtype=torch.float64) for name in patterns}
        """Summed activation of each latent at matches."""
        self._matched = {name: torch.zeros(F, dtype=torch.int64) for name in patterns}
        """Matches at which each latent is active."""
        self._counted = dict.fromkeys(patterns, 0)
        for batch in study.batches():
            latents = batch.latents
            token_N, latent_N = latents.token_N.cpu(), latents.latent_N.cpu()
            value_N = latents.value_N.cpu().double()
            keep_BT = batch.keep_BT.cpu()
            # The number of each token among those that count.
            number_BT = (keep_BT.flatten().cumsum(0) - 1).view_as(keep_BT).masked_fill(~keep_BT, -1)
            for name, pairs in self._matches(batch, study, patterns).items():
                match_P, row_P, column_P = torch.tensor(pairs, dtype=torch.int64).view(-1, 3).unbind(dim=1)
                token_P = number_BT[row_P, column_P]
                match_P, token_P = match_P[token_P >= 0], token_P[token_P >= 0]
                self._counted[name] += len(torch.unique(match_P))
                there_N = torch.isin(token_N, token_P)
                self._at[name].index_add_(0, latent_N[there_N], value_N[there_N])
                # Latents are in the order of tokens: those of one token lie between two places.
                first_P, last_P = (torch.searchsorted(token_N, token_P, right=right) for right in (False, True))
                count_P = last_P - first_P
                start_P = count_P.cumsum(0) - count_P
                entry_N = torch.arange(int(count_P.sum())) + (first_P - start_P).repeat_interleave(count_P)
                active_N2 = torch.stack([match_P.repeat_interleave(count_P), latent_N[entry_N]])
                self._matched[name] += torch.bincount(torch.unique(active_N2, dim=1)[1], minlength=F)

    def count(self, name: str) -> int:
        """Matches with a token that counts."""
        return self._counted[name]

    def recall(self, name: str) -> Tensor:
        """Of each latent, the share of the matches at which it is active, (F,)."""
        return self._matched[name] / max(1, self._counted[name])

    def precision(self, name: str) -> Tensor:
        """Of each latent, the share of its summed activation that is at matches, (F,)."""
        return self._at[name] / self._sum_F.clamp_min(1e-12)

    def _matches(
        self, batch: StudyBatch, study: Study, patterns: Mapping[str, re.Pattern[str]]
    ) -> dict[str, list[tuple[int, int, int]]]:
        """By name: match, row and column of each token of a match, and of the one before, which predicts its first."""
        ids, attention = batch.tokens.ids.cpu(), batch.tokens.attention.cpu()
        reading = language_model(study.reading, "the search for places in texts")
        document = batch.tokens.document.cpu() if batch.tokens.document is not None else torch.zeros_like(ids)
        found: dict[str, list[tuple[int, int, int]]] = {name: [] for name in patterns}
        for row in range(len(ids)):
            for number in torch.unique(document[row][attention[row]]).tolist():
                columns = ((document[row] == number) & attention[row]).nonzero()[:, 0].tolist()
                own = ids[row, columns].tolist()
                texts = reading.token_texts(own)
                ends = list(accumulate(map(len, texts)))
                for name, pattern in patterns.items():
                    for match in pattern.finditer("".join(texts)):
                        if match.end() == match.start():
                            continue
                        start, stop = bisect_right(ends, match.start()), bisect_right(ends, match.end() - 1) + 1
                        found[name] += [(len(self.spots[name]), row, c) for c in columns[max(0, start - 1) : stop]]
                        self.spots[name].append(Spot(TokenIds(tuple(own)), start, stop))
        return found
