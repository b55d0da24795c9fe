"""The latent groups of crosscoders as parts of one model: where each reads and writes, or why no graph has it.

A graph needs latents that read one point, affinely made of what earlier latents wrote, and write outputs of MLPs or of
attention from there on. Everything else is refused here, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from attrs import frozen
from torch import Tensor
from torch.nn import functional

from ..crosscoder.latents import Latents
from ..crosscoder.module import Crosscoder
from ..crosscoder.wiring import LatentGroup
from ..errors import AnalysisError, SiteError, listed
from ..kernels import sparse_decode
from ..models.adapter import ModelAdapter
from ..models.linear import FINAL


@frozen(eq=False)
class LatentSet:
    """One latent group of one crosscoder in the model: its latents read one point and write some."""

    crosscoder: Crosscoder
    index: int
    """The place of the group in the crosscoder's wiring."""
    layer: int
    """Number of the layer that the latents read."""
    first: int
    """Index of the first latent in its layer; those of several sets that read one layer are numbered through."""
    norm_F: Tensor
    """Summed decoder norms of all latents of the crosscoder, which gates compare by; taken when the set is made."""

    @property
    def group(self) -> LatentGroup:
        """The group."""
        return self.crosscoder.wiring.groups[self.index]

    @property
    def size(self) -> int:
        """The number of latents."""
        return self.group.num_latents

    @property
    def read(self) -> str:
        """The point that the latents read."""
        return self.group.reads[0].partition("/")[2]

    @property
    def writes(self) -> tuple[str, ...]:
        """The points that they write."""
        return tuple(name.partition("/")[2] for name in self._written)

    @property
    def _written(self) -> tuple[str, ...]:
        return self.crosscoder.layout.subset(self.group.writes).names

    @property
    def columns(self) -> slice:
        """The latents' numbers in their crosscoder."""
        return self.crosscoder.wiring.latent_slices[self.group.name]

    @torch.no_grad()
    def encode(self, x_TD: Tensor) -> Latents:
        """Latents, numbered from 0 in this set, of raw activations at the point read, by the inference gate."""
        crosscoder = self.crosscoder
        x_TD = x_TD.to(crosscoder.b_enc_F) * crosscoder.normaliser.scale_of(self.group.reads[0])
        f_TF = x_TD.new_zeros(len(x_TD), crosscoder.num_latents)
        weight, bias = crosscoder.encoder_weight(self.index), crosscoder.b_enc_F[self.columns]
        f_TF[:, self.columns] = functional.linear(x_TD, weight, bias).relu()
        keep_TF = crosscoder.gate.keep(f_TF, self.norm_F)
        return Latents.from_mask(keep_TF[:, self.columns], f_TF[:, self.columns])

    @torch.no_grad()
    def write(self, latents: Latents) -> dict[str, Tensor]:
        """What these latents add at each point written, (T, D) in raw units."""
        layout = self.crosscoder.layout.subset(self._written)
        blocks_TX = sparse_decode(latents.value_N, self.crosscoder.decoder_weight(self.index), latents)
        blocks_TX = blocks_TX / self.crosscoder.normaliser.scale_X(layout.names)
        return {name.partition("/")[2]: block for name, block in layout.unpack(blocks_TX).items()}

    @torch.no_grad()
    def encoder_rows(self, latent_K: Tensor) -> Tensor:
        """Encoder rows (K, D) that raw activations are multiplied by."""
        scale = self.crosscoder.normaliser.scale_of(self.group.reads[0])
        return self.crosscoder.encoder_weight(self.index)[latent_K] * scale

    @torch.no_grad()
    def decoder_rows(self, latent_K: Tensor) -> dict[str, Tensor]:
        """What a value of 1 of each latent adds at each point written, (K, D) in raw units."""
        layout = self.crosscoder.layout.subset(self._written)
        rows_KX = self.crosscoder.decoder_weight(self.index)[latent_K] / self.crosscoder.normaliser.scale_X(
            layout.names
        )
        return {name.partition("/")[2]: rows for name, rows in layout.unpack(rows_KX).items()}

    @torch.no_grad()
    def encoder_bias(self, latent_K: Tensor) -> Tensor:
        """The encoder's bias of each latent, (K,)."""
        return self.crosscoder.b_enc_F[self.columns][latent_K]


def latent_sets(crosscoders: Sequence[Crosscoder], adapter: ModelAdapter) -> list[LatentSet]:
    """All groups, in the order in which the forward pass reaches what they read.

    `AnalysisError` says what in a wiring has no graph; `SiteError` names points that the model does not have.
    """
    if not crosscoders:
        raise AnalysisError("a replacement model needs at least one crosscoder")
    order = {point: place for place, point in enumerate(adapter.points())}
    owner: dict[str, int] = {}
    for number, crosscoder in enumerate(crosscoders):
        _check(crosscoder, order, adapter)
        for site in crosscoder.written.sites:
            if owner.setdefault(site.point, number) != number:
                raise AnalysisError(
                    f"crosscoders {owner[site.point]} and {number} both explain all of {site.point}; leave one out"
                )
    groups = [
        (order[group.reads[0].partition("/")[2]], number, index)
        for number, crosscoder in enumerate(crosscoders)
        for index, group in enumerate(crosscoder.wiring.groups)
    ]
    norms = [crosscoder.score_norms() for crosscoder in crosscoders]
    found: list[LatentSet] = []
    taken: dict[int, int] = {}
    for _, number, index in sorted(groups):
        layer = layer_of(crosscoders[number].wiring.groups[index].reads[0].partition("/")[2])
        found.append(LatentSet(crosscoders[number], index, layer, taken.get(layer, 0), norms[number]))
        taken[layer] = taken.get(layer, 0) + found[-1].size
    return found


def layer_of(point: str) -> int:
    """The number of the layer that a point, `layers.3.mlp`, is in."""
    return int(point.split(".")[1])


def skip_maps(crosscoders: Sequence[Crosscoder]) -> dict[str, dict[str, Tensor]]:
    """Skip maps in raw units, (D written, D read), by the point written and the point read."""
    maps: dict[str, dict[str, Tensor]] = {}
    for crosscoder in crosscoders:
        scale_of = crosscoder.normaliser.scale_of
        for index, (read, written) in enumerate(crosscoder.wiring.skip):
            W = crosscoder.W_skip[index].detach() * (scale_of(read) / scale_of(written))
            maps.setdefault(written.partition("/")[2], {})[read.partition("/")[2]] = W
    return maps


def decoder_biases(crosscoders: Sequence[Crosscoder]) -> dict[str, Tensor]:
    """Decoder biases (D,) in raw units by the point written."""
    return {
        name.partition("/")[2]: bias_D
        for crosscoder in crosscoders
        for name, bias_D in crosscoder.written.unpack(
            crosscoder.normaliser.undo(crosscoder.b_dec_X.detach(), crosscoder.written.names)
        ).items()
    }


def _check(crosscoder: Crosscoder, order: Mapping[str, int], adapter: ModelAdapter) -> None:
    models = sorted({site.model for site in crosscoder.sites})
    if len(models) > 1:
        raise AnalysisError(
            f"a crosscoder of several models ({', '.join(models)}) has no graph: a graph is of one model's forward "
            "pass, and these latents also read and write another's"
        )
    crosscoder.normaliser.require_known()
    for site in crosscoder.sites:
        if site.point not in order:
            adapter.width(site.point)  # says what there is
        if adapter.width(site.point) != site.width:
            raise SiteError(
                f"site {site.name} has width {site.width}, but the model has {adapter.width(site.point)} there; is it "
                "another model?"
            )
    for group in crosscoder.wiring.groups:
        _check_group(group, order)
    for read, written in crosscoder.wiring.skip:
        _check_read(read, f"the skip map to {written}")
        _check_write(read, written, "a skip map", order)
    _check_gate(crosscoder)


@torch.no_grad()
def _check_gate(crosscoder: Crosscoder) -> None:
    """Refuse a gate for which a group's latents are on or off by those of other groups, as tried on random ones."""
    generator = torch.Generator().manual_seed(0)
    f_BF = torch.rand(4, crosscoder.num_latents, generator=generator).to(crosscoder.b_enc_F)
    norm_F = crosscoder.score_norms()
    together_BF = crosscoder.gate.keep(f_BF, norm_F)
    for columns in crosscoder.wiring.latent_slices.values():
        alone_BF = torch.zeros_like(f_BF)
        alone_BF[:, columns] = f_BF[:, columns]
        if not torch.equal(crosscoder.gate.keep(alone_BF, norm_F)[:, columns], together_BF[:, columns]):
            raise AnalysisError(
                f"the gate '{crosscoder.gate.name}' ranks latents of all layers together, so whether one is on depends "
                "on later layers: it is not causal; a graph needs a gate that looks at each latent or each group alone "
                "(a topk gate with group_sizes, or a threshold)"
            )


def _check_group(group: LatentGroup, order: Mapping[str, int]) -> None:
    if len(group.reads) > 1:
        raise AnalysisError(
            f"latents of group '{group.name}' read {len(group.reads)} sites ({listed(list(group.reads), ', ')}): a "
            "graph needs latents that read one, before all that they explain; train a strictly causal crosscoder or "
            "one transcoder for each layer"
        )
    read = group.reads[0]
    for written in group.writes:
        _check_write(read, written, f"latents of group '{group.name}'", order)
    _check_read(read, f"latents of group '{group.name}'")


def _check_read(read: str, who: str) -> None:
    point = read.partition("/")[2]
    if point == FINAL or point.endswith(".mlp"):
        raise AnalysisError(
            f"{who} read {read}, which is not an affine function of what latents write; they may read mlp_input, "
            "attention, or the residual stream before what they explain"
        )


def _check_write(read: str, written: str, who: str, order: Mapping[str, int]) -> None:
    point, read_point = written.partition("/")[2], read.partition("/")[2]
    if not point.endswith((".mlp", ".attention")):
        raise AnalysisError(
            f"{who} write {written}, on the residual stream: it holds the MLP's output of the same layer, a nonlinear "
            "function of what they read, so effects between latents are not exact there; a graph needs latents that "
            "write mlp or attention outputs"
        )
    same = read_point == point and point.endswith(".attention")
    if order[read_point] >= order[point] and not same:
        raise AnalysisError(
            f"{who} read {read} and write {written}, which comes before it or is the same: they are not causal, so "
            "there is no order in which a graph could follow them"
        )
