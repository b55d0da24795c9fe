"""The replacement model: a model in which latents write what MLPs would, and how faithful it is.

At each point that latents explain, the model's own activation is `latents + bias + skip + error`. With the errors of
the same tokens put back the model is itself; without them it is the replacement model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from ..analysis.inputs import Input, documents_of
from ..crosscoder.latents import Latents
from ..crosscoder.module import Crosscoder
from ..devices import precise
from ..errors import AnalysisError, LatentError
from ..models.adapter import Edit, ModelAdapter
from ..models.linear import FINAL, Linearisable
from ..models.tokens import TokenBatch
from ..reports import Table
from .latent_sets import LatentSet, decoder_biases, latent_sets, layer_of, skip_maps

Skip = Sequence[int] | None
"""Positions where latents do not count; None for those of beginning-of-sequence tokens, on which nothing is trained."""


class ReplacementModel:
    """Crosscoders of one causal language model put in the place of its MLPs (and attention, where they write it).

    `crosscoders` is one (a cross-layer transcoder), or several that explain different points, such as a transcoder for
    each layer; layers that none explains stay the model's own. `AnalysisError` says why a wiring cannot be used.
    """

    def __init__(self, crosscoders: Crosscoder | Sequence[Crosscoder], adapter: ModelAdapter) -> None:
        if not isinstance(adapter, Linearisable):
            raise AnalysisError(
                f"the adapter {type(adapter).__name__} does not linearise its model (crosscoders.Linearisable), which "
                "circuits need; 'transformers' does"
            )
        self.crosscoders = [crosscoders] if isinstance(crosscoders, Crosscoder) else list(crosscoders)
        self.adapter = adapter
        self.sets = latent_sets(self.crosscoders, adapter)
        self.skips, self.biases = skip_maps(self.crosscoders), decoder_biases(self.crosscoders)
        self.points = list(adapter.points())
        mlps = [point for point in self.points if point.endswith(".mlp")]
        self.cuts = sorted({*mlps, *self.biases}, key=self.points.index)
        """Points whose activations a graph cuts: all MLPs, and whatever else latents write, in order."""

    @property
    def explained(self) -> list[str]:
        """The points that latents write, in the order of the forward pass."""
        return [point for point in self.cuts if point in self.biases]

    @property
    def num_layers(self) -> int:
        """The number of the model's layers."""
        return 1 + max(layer_of(point) for point in self.points if point.startswith("layers."))

    def set_of(self, layer: int, index: int) -> tuple[LatentSet, int]:
        """The set that has latent `index` of `layer`, and the latent's number in it; `LatentError` if there is none.

        Latents are numbered within the layer that they read.
        """
        for one in self.sets:
            if one.layer == layer and one.first <= index < one.first + one.size:
                return one, index - one.first
        there = {one.layer: one.first + one.size for one in self.sets}
        raise LatentError(
            f"there is no latent {index} that reads layer {layer}; there are "
            + ", ".join(f"{count} of layer {number}" for number, count in sorted(there.items()))
        )

    def rows(self, given: Input) -> list[TokenBatch]:
        """Each text, chat or list of token ids as one unpadded row of tokens, where the crosscoders are."""
        device = self.crosscoders[0].device
        if isinstance(given, TokenBatch):
            return [given.sequences(i, i + 1).to(device) for i in range(len(given.ids))]
        rows = []
        for document in documents_of(given):
            tokens = self.adapter.tokenize(document)
            if not len(tokens.ids):
                raise AnalysisError(f"{document!r} has no tokens")
            bos, special = (torch.tensor([list(flags)], dtype=torch.bool) for flags in (tokens.bos, tokens.special))
            ids = torch.tensor([list(tokens.ids)], dtype=torch.int64)
            rows.append(TokenBatch(ids, torch.ones_like(bos), bos, special))
        return [row.to(device) for row in rows]

    def row(self, given: Input) -> TokenBatch:
        """One prompt as a row of tokens."""
        rows = self.rows(given)
        if len(rows) != 1:
            raise AnalysisError(f"expected one prompt, not {len(rows)}")
        return rows[0]

    def kept(self, tokens: TokenBatch, skip_positions: Skip = None) -> Tensor:
        """Boolean (T,): where latents count."""
        if skip_positions is None:
            return ~tokens.bos[0]
        length = tokens.ids.shape[1]
        outside = [p for p in skip_positions if not -length <= p < length]
        if outside:
            raise AnalysisError(f"position {outside[0]} is to be left out, but the prompt has {length} tokens")
        keep_T = torch.ones(length, dtype=torch.bool, device=tokens.ids.device)
        keep_T[list(skip_positions)] = False
        return keep_T

    def replace(self, given: Input, *, skip_positions: Skip = None) -> Replaced:
        """One prompt by the model itself, by the replacement model, and by that with its errors put back."""
        tokens = self.row(given)
        keep_T = self.kept(tokens, skip_positions)
        own = Explaining(self, keep_T)
        logits_TV = self.adapter.logits(tokens, own.edits(lambda _, found: found))[0]
        errors = {point: own.errors(point) for point in self.explained}

        def run(with_errors: bool) -> Tensor:
            again = Explaining(self, keep_T)

            def put(point: str, found: Tensor) -> Tensor:
                if point not in errors:
                    return found
                new = again.written(point) + (errors[point] if with_errors else 0)
                return torch.where(keep_T[:, None], new, found)

            return self.adapter.logits(tokens, again.edits(put))[0]

        square = {point: precise(own.found[point][keep_T]).square().sum() for point in self.explained}
        shares = {point: float(precise(errors[point][keep_T]).square().sum() / square[point]) for point in square}
        return Replaced(logits_TV, run(False), run(True), keep_T, shares)

    def fidelity(self, given: Input, *, skip_positions: Skip = None) -> Fidelity:
        """How near the replacement model comes to the model on some texts, over tokens that count, and by layer."""
        found = [self.replace(row, skip_positions=skip_positions) for row in self.rows(given)]
        counted = [(one.logits_TV[one.keep_T], one.replaced_TV[one.keep_T]) for one in found]
        own_NV, new_NV = (precise(torch.cat(part)).log_softmax(dim=-1) for part in zip(*counted, strict=True))
        if not len(own_NV):
            raise AnalysisError("no token counts: all positions are left out")
        kl_N = (own_NV.exp() * (own_NV - new_NV)).sum(dim=1)
        agree_N = own_NV.argmax(dim=1) == new_NV.argmax(dim=1)
        shares = {
            point: sum(one.error_share[point] * int(one.keep_T.sum()) for one in found) / len(own_NV)
            for point in self.explained
        }
        return Fidelity(float(kl_N.mean()), float(precise(agree_N).mean()), shares, len(own_NV))


@frozen(eq=False)
class Replaced:
    """Logits (T, V) of one prompt, by three models."""

    logits_TV: Tensor
    """Of the model itself."""
    replaced_TV: Tensor
    """Of the replacement model: latents, biases and skips in the place of what they explain, made anew on the way."""
    with_errors_TV: Tensor
    """The same plus the errors of the model's own run: the model's logits again, but for rounding."""
    keep_T: Tensor
    """Boolean: where latents count. Elsewhere the model's own activations stay."""
    error_share: Mapping[str, float]
    """By point: Σ‖error‖² / Σ‖activation‖² over the tokens that count."""


@frozen
class Fidelity:
    """How near a replacement model comes to its model."""

    kl: float
    """Mean KL(model ‖ replacement) of the next token's distribution, nats."""
    top1_agreement: float
    """Share of tokens whose most probable next token is the same."""
    error_share: Mapping[str, float]
    """By point: Σ‖error‖² / Σ‖activation‖², in the model's own run; the mean over prompts, weighted by tokens."""
    num_tokens: int

    def table(self) -> Table:
        """`point`, `error_share`."""
        return Table(
            title=f"Fidelity over {self.num_tokens} tokens: KL {self.kl:.4g} nats, top-1 {self.top1_agreement:.1%}",
            columns=("point", "error_share"),
            rows=list(self.error_share.items()),
        )


class Explaining:
    """Latents of one forward pass, made on the way: edits that encode at each read and tell what is written."""

    def __init__(self, model: ReplacementModel, keep_T: Tensor) -> None:
        self.model, self.keep_T = model, keep_T
        self.latents: list[Latents] = []
        """Of each set, at the tokens that count, in the order of `ReplacementModel.sets`, as they are encoded."""
        self.found: dict[str, Tensor] = {}
        """Activations (T, D) in fp32 at the points seen so far."""
        self._sums: dict[str, Tensor] = {}

    def edits(
        self,
        put: Callable[[str, Tensor], Tensor],
        change: Callable[[LatentSet, Latents], Latents] | None = None,
    ) -> list[Edit]:
        """Edits of a forward pass over one row.

        `put` gets each point that is cut and its activation (T, D) in fp32, and returns what is to be there. `change`
        says, from the latents of a set as they are encoded, which are written in their place.
        """
        model = self.model
        reads = {one.read for one in model.sets} | {read for maps in model.skips.values() for read in maps}
        edits = []
        for point in sorted({*reads, *model.cuts, FINAL}, key=model.points.index):

            def at(activation: Tensor, point: str = point) -> Tensor:
                self.found[point] = activation[0].float()
                for one in model.sets:
                    if one.read == point:
                        self._encode(one, change)
                if point not in model.cuts:
                    return activation
                return put(point, self.found[point]).to(activation)[None]

            edits.append(Edit(point, at))
        return edits

    def _encode(self, one: LatentSet, change: Callable[[LatentSet, Latents], Latents] | None) -> None:
        latents = one.encode(self.found[one.read])
        latents = latents.select(self.keep_T[latents.token_N])
        self.latents.append(latents)
        written = latents if change is None else change(one, latents)
        for point, block_TD in one.write(written).items():
            self._sums[point] = self._sums[point] + block_TD if point in self._sums else block_TD

    def skipped(self, point: str) -> Tensor | float:
        """What skip maps write at a point, (T, D)."""
        total: Any = 0.0
        for read, W in self.model.skips.get(point, {}).items():
            total = total + self.found[read].to(W) @ W.T
        return total  # type: ignore[no-any-return]

    def added(self, point: str) -> Tensor | float:
        """What latents write at a point, (T, D); 0 where none does."""
        return self._sums.get(point, 0.0)

    def written(self, point: str) -> Tensor:
        """The reconstruction at a point, (T, D): latents, bias and skip."""
        return self.added(point) + self.model.biases[point] + self.skipped(point)

    def errors(self, point: str) -> Tensor:
        """What the reconstruction leaves over at a point, (T, D)."""
        return self.found[point] - self.written(point)
