"""Looking at latents: which are active on a text, and what a phrase is found by."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from attrs import field, frozen
from torch import Tensor

from ..crosscoder.latents import Latents
from ..devices import accumulator, precise
from ..models.adapter import ModelAdapter
from ..models.capabilities import token_texts
from ..models.tokens import TokenBatch
from ..reports import Context, Example, Examples, Table
from .census import Census
from .passes import StudyBatch

if TYPE_CHECKING:
    import pandas


@frozen(eq=False, repr=False)
class TokenLatents:
    """Latents of some rows of tokens. Tokens that training leaves out (BOS, padding) have none.

    In a notebook it shows itself as text, coloured by each of the `top` strongest latents; `to_pandas` and `table` give
    the `top` strongest of each token.
    """

    tokens: TokenBatch
    texts: tuple[tuple[str, ...], ...]
    """The text of each token, by row, padding left out."""
    place_B2: Tensor
    """Row and position of each token that `latents` counts."""
    latents: Latents
    score_norm_F: Tensor
    """Σ_s‖d^s‖ of each latent: activations of different latents are compared after multiplying by it."""
    top: int = field(default=8)

    def __repr__(self) -> str:
        rows, count = len(self.texts), self.latents.num_tokens
        return f"TokenLatents({rows} rows, {count} tokens, L0 {self.latents.l0:.1f}, strongest {self.strongest()})"

    def strongest(self, count: int = 0) -> list[int]:
        """Latents by falling largest score, `count` of them or `top`."""
        peak_F = torch.zeros(self.latents.num_latents)
        peak_F.scatter_reduce_(0, self.latents.latent_N, self._scores(), "amax")
        order: list[int] = peak_F.argsort(descending=True, stable=True)[: count or self.top].tolist()
        return [latent for latent in order if peak_F[latent] > 0]

    def activation(self, latent: int) -> list[list[float]]:
        """Activations of one latent on every token, by row."""
        values = [[0.0] * len(row) for row in self.texts]
        mine_N = (self.latents.latent_N == latent).nonzero().squeeze(1)
        places = self.place_B2[self.latents.token_N[mine_N]].tolist()
        for (row, position), value in zip(places, self.latents.value_N[mine_N].tolist(), strict=True):
            values[row][position] = value
        return values

    def table(self) -> Table:
        """Tokens × their `top` strongest latents: `row`, `position`, `token`, `rank` from 0, `latent`, `activation`,
        `score` (activation times Σ_s‖d^s‖)."""
        score_N = self._scores()
        by_score_N = score_N.argsort(descending=True, stable=True)
        order_N = by_score_N[self.latents.token_N[by_score_N].argsort(stable=True)]
        token_N = self.latents.token_N[order_N]
        counts_B = torch.bincount(token_N, minlength=self.latents.num_tokens)
        rank_N = torch.arange(len(token_N)) - (counts_B.cumsum(0) - counts_B)[token_N]
        order_N, rank_N = order_N[rank_N < self.top], rank_N[rank_N < self.top]
        places = self.place_B2[self.latents.token_N[order_N]].tolist()
        values = (rank_N, self.latents.latent_N[order_N], self.latents.value_N[order_N], score_N[order_N])
        return Table(
            title="Latents by token",
            columns=("row", "position", "token", "rank", "latent", "activation", "score"),
            rows=[
                (row, position, self.texts[row][position], *numbers)
                for (row, position), *numbers in zip(places, *(value.tolist() for value in values), strict=True)
            ],
        )

    def to_pandas(self) -> pandas.DataFrame:
        """`table` as a pandas frame."""
        return self.table().to_pandas()

    def examples(self) -> Examples:
        """The text once for each of the `top` strongest latents, with its activations."""
        entries = []
        for latent in self.strongest():
            values = self.activation(latent)
            contexts = [
                Context(tokens=row, activations=value)
                for row, value in zip(self.texts, values, strict=True)
                if any(value)
            ]
            entries.append(
                Example(heading=f"latent {latent}", note=f"at most {max(map(max, values)):.3g}", contexts=contexts)
            )
        return Examples(title="Strongest latents", entries=entries)

    def _repr_html_(self) -> str:
        return self.examples()._repr_html_()

    def _scores(self) -> Tensor:
        return self.latents.value_N * self.score_norm_F[self.latents.latent_N]


def token_latents(batch: StudyBatch, reading: ModelAdapter, *, top: int) -> TokenLatents:
    """The latents of one batch with the texts of its tokens."""
    found = batch.latents
    texts = tuple(
        tuple(token_texts(reading, ids[attention].tolist()))
        for ids, attention in zip(batch.tokens.ids.cpu(), batch.tokens.attention.cpu(), strict=True)
    )
    on_cpu = Latents(
        found.token_N.cpu(), found.latent_N.cpu(), found.value_N.detach().cpu(), found.num_tokens, found.num_latents
    )
    norm_F = batch.crosscoder.score_norms().cpu()
    return TokenLatents(batch.tokens, texts, batch.place_B2.cpu(), on_cpu, norm_F, top)


def find(phrase: TokenLatents, batches: Iterable[StudyBatch], seen: Census, *, count: int) -> Table:
    """Latents whose activation the phrase explains.

    `surprise` is −log₂ of the share of a study's tokens on which the latent is at least as active as at its peak on the
    phrase, (1 + tokens) / (1 + all), in bits: high where hardly anything else moves the latent as much. `lift` is its
    mean activation on the phrase's tokens over that on the study's. Sorted by surprise, then by score.
    """
    latents, F = phrase.latents, phrase.latents.num_latents
    peak_F = torch.zeros(F).scatter_reduce_(0, latents.latent_N, latents.value_N, "amax")
    total_F = torch.zeros(F, **accumulator(seen.firings_F.device)).index_add_(
        0, latents.latent_N, precise(latents.value_N)
    )
    reached_F = torch.zeros(F, dtype=torch.int64)
    for batch in batches:
        latent_N, value_N = batch.latents.latent_N.cpu(), batch.latents.value_N.cpu()
        hit_N = (value_N >= peak_F[latent_N]) & (peak_F[latent_N] > 0)
        reached_F += torch.bincount(latent_N[hit_N], minlength=F)
    surprise_F = -((1 + precise(reached_F)) / (1 + seen.num_tokens)).log2()
    lift_F = (total_F / latents.num_tokens) / (seen.sum_F / seen.num_tokens)
    score_F = peak_F * phrase.score_norm_F
    order = torch.arange(F)[peak_F > 0]
    order = order[score_F[order].argsort(descending=True, stable=True)]
    order = order[surprise_F[order].argsort(descending=True, stable=True)][:count]
    places = {latent: _peak_token(phrase, latent) for latent in order.tolist()}
    columns = (order, surprise_F[order], peak_F[order], score_F[order], lift_F[order], seen.firings_F[order])
    return Table(
        title="Latents that the phrase explains",
        columns=("latent", "surprise_bits", "peak", "score", "lift", "firings", "token"),
        rows=[(*row, places[row[0]]) for row in zip(*(column.tolist() for column in columns), strict=True)],
        note=f"Against {seen.num_tokens} tokens of the study.",
    )


def _peak_token(phrase: TokenLatents, latent: int) -> str:
    values = phrase.activation(latent)
    _, row, position = max((v, -r, -t) for r, vs in enumerate(values) for t, v in enumerate(vs))
    return phrase.texts[-row][-position]
