"""What a change of activations did to a model's next-token predictions, token by token."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from attrs import frozen
from torch import Tensor

from ..devices import precise
from ..errors import AnalysisError
from ..models.adapter import Edit, ModelAdapter
from ..models.capabilities import gives_logits, token_texts
from ..models.predictions import Piece, pieces
from ..reports import Context, Example, Examples, Table
from .passes import StudyBatch

if TYPE_CHECKING:
    import pandas


@frozen(eq=False, repr=False)
class Effect:
    """Loss and divergence at every token whose next one is known; means are over all of them."""

    title: str
    place_N2: Tensor
    """Row and position, in the tokens of the model that ran."""
    token_N: Tensor
    next_N: Tensor
    kl_N: Tensor
    """KL(clean ‖ changed) of the next token's distribution, nats."""
    loss_clean_N: Tensor
    """−log p of the next token by the clean model, nats."""
    loss_N: Tensor
    """The same by the changed one."""
    kl_without_N: Tensor | None
    """Of a patch: KL(clean ‖ patched with no latent)."""
    adapter: ModelAdapter

    @property
    def kl(self) -> float:
        """Mean of `kl_N`."""
        return float(precise(self.kl_N).mean())

    @property
    def loss_increase(self) -> float:
        """Mean of changed less clean loss, nats per token."""
        return float(precise(self.loss_N - self.loss_clean_N).mean())

    @property
    def recovered(self) -> float:
        """Of a patch: 1 − KL(clean ‖ patched) / KL(clean ‖ patched with no latent), means of both."""
        if self.kl_without_N is None:
            raise AnalysisError("only a patch recovers something; this is an ablation")
        return 1 - self.kl / float(precise(self.kl_without_N).mean())

    def __repr__(self) -> str:
        tail = "" if self.kl_without_N is None else f", recovered {self.recovered:.3f}"
        return (
            f"Effect({self.title}: KL {self.kl:.4g}, loss {self.loss_increase:+.4g} nats per token{tail}; "
            f"{len(self.kl_N)} tokens)"
        )

    def table(self) -> Table:
        """`row`, `position`, `token`, `next_token`, `kl`, `loss_clean`, `loss`; a patch also has `kl_without`."""
        columns = [self.kl_N, self.loss_clean_N, self.loss_N]
        columns += [] if self.kl_without_N is None else [self.kl_without_N]
        names = ["kl", "loss_clean", "loss", *([] if self.kl_without_N is None else ["kl_without"])]
        texts = partial(token_texts, self.adapter)
        return Table(
            title=self.title,
            columns=("row", "position", "token", "next_token", *names),
            rows=[
                (*place, token, following, *numbers)
                for place, token, following, *numbers in zip(
                    self.place_N2.tolist(),
                    texts(self.token_N.tolist()),
                    texts(self.next_N.tolist()),
                    *(column.tolist() for column in columns),
                    strict=True,
                )
            ],
        )

    def to_pandas(self) -> pandas.DataFrame:
        """`table` as a pandas frame."""
        return self.table().to_pandas()

    def _repr_html_(self) -> str:
        """The ten rows that change most, coloured by the divergence at each token."""
        total = torch.zeros(int(self.place_N2[:, 0].max()) + 1).index_add_(0, self.place_N2[:, 0], self.kl_N.float())
        contexts = []
        for row in total.argsort(descending=True, stable=True)[:10].tolist():
            mine = self.place_N2[:, 0] == row
            tokens = token_texts(self.adapter, self.token_N[mine].tolist())
            contexts.append(Context(tokens=tokens, activations=self.kl_N[mine].tolist()))
        note = f"KL {self.kl:.4g}, loss {self.loss_increase:+.4g} nats per token; coloured by KL at each token."
        return Examples(title=self.title, entries=[Example(heading=note, contexts=contexts)])._repr_html_()


@torch.no_grad()
def effect_of(
    title: str,
    batches: Iterable[StudyBatch],
    run: tuple[str, ModelAdapter],
    edits: Callable[[StudyBatch, slice], Sequence[Sequence[Edit]]],
    *,
    reference: tuple[str, ModelAdapter] | None = None,
) -> Effect:
    """Run a model, by key and adapter, with the edits that `edits` gives for some rows of each batch.

    With one set of edits the effect is against the clean model; of two the second is the one "without". `reference` is
    another model whose predictions count as clean.
    """
    columns: list[list[Tensor]] = []
    for batch in batches:
        for piece in pieces(run[1], run[0], batch.tokens):
            clean_NV = piece.clean_NV if reference is None else clean_of(piece, reference[1])
            logp = [piece.changed(each) for each in edits(batch, piece.rows)]
            place_N2 = piece.predicts_BT.nonzero().cpu()
            place_N2[:, 0] += piece.rows.start + batch.first_sequence
            found = [place_N2, piece.tokens.ids[piece.predicts_BT], piece.next_N]
            found += [piece.divergence(logp[0], clean_NV), piece.loss(clean_NV), piece.loss(logp[0])]
            found += [piece.divergence(other, clean_NV) for other in logp[1:]]
            columns.append([tensor.cpu() for tensor in found])
    if not columns:
        raise AnalysisError("there is no token to predict")
    joined = [torch.cat(parts) for parts in zip(*columns, strict=True)]
    without = joined[6] if len(joined) > 6 else None
    place_N2, token_N, next_N, kl_N, loss_clean_N, loss_N = joined[:6]
    return Effect(title, place_N2, token_N, next_N, kl_N, loss_clean_N, loss_N, without, run[1])


def clean_of(piece: Piece, adapter: ModelAdapter) -> Tensor:
    """log p of another model, of one vocabulary, where the piece's model predicts, (N, V)."""
    logits_BTV = gives_logits(adapter, "a comparison of predictions").logits(piece.tokens)
    return logits_BTV[piece.predicts_BT.to(logits_BTV.device)].float().log_softmax(dim=-1)
