"""The crosscoder module: one encoder block and one decoder block for each latent group of its wiring.

    f = gate(W_enc x̃ + b_enc)        x̂ = W_decᵀ f + b_dec (+ W_skip x̃, in blocks of read and written sites)

x̃ are normalised activations. Lindsey et al. 2024, "Sparse Crosscoders"; no decoder bias is subtracted before encoding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import SiteError
from ..kernels import sparse_decode, sparse_encode
from ..processes import ALONE, Processes
from .edits import Change, latent_change
from .gates import Gate, ReluGate
from .inputs import as_activations, as_dense_latents, check_finite
from .latents import Latents, known_latents
from .normalise import Normaliser
from .sharing import Shareable
from .sites import Columns, Site, SiteLayout
from .wiring import LatentGroup, Wiring

if TYPE_CHECKING:
    from .info import CheckpointInfo

ROW_PIECE_ELEMENTS = {"cpu": 2**22, "cuda": 2**28}
"""Pre-activations are computed in pieces of about this many numbers: 16 MB in fp32 on a CPU, so that a piece stays in
cache while it is compared; 1 GB on a GPU, so that few kernels are launched."""
LEAST_PIECE_ROWS = 64
"""A piece has at least this many rows: with fewer, the matrix product becomes slow."""


class _WithWeights(type):
    """Makes the weights of a crosscoder once its `__init__`, or that of its subclass, has ended.

    So a subclass may set what its weights depend on before or after it calls `super().__init__`, as in any class.
    """

    def __call__(cls, *args: Any, **keywords: Any) -> Any:
        made = super().__call__(*args, **keywords)
        made._complete()
        return made


class Crosscoder(Shareable, nn.Module, metaclass=_WithWeights):
    """Encodes the activations of all sites into one set of latents and decodes them back.

    Activations are given and returned in the model's own units: as a tensor `x_BX` with the sites side by side, or as a
    mapping from site name to a tensor (B, D). Methods whose names end in `_normalised`, and those that losses use, work
    on normalised activations instead.
    """

    info: CheckpointInfo | None
    """Where the crosscoder came from: architecture, recipe, models, metrics. None if it was made from a bare wiring."""

    processes: Processes
    """The processes of the run. If they shard the latents (`training.shards`), this crosscoder holds one shard of each
    group."""

    def __init__(self, wiring: Wiring, processes: Processes = ALONE) -> None:
        super().__init__()
        self.wiring = wiring = wiring.shard(processes.num_shards)
        self.processes = processes
        self.info = None
        self.normaliser = Normaliser(wiring.layout)
        self.gate: Gate = ReluGate()

    def _complete(self) -> None:
        """Make the weights, then the biases and the skip connection, which every parameterisation has alike."""
        wiring = self.wiring
        self.make_weights()
        self.b_enc_F = nn.Parameter(torch.zeros(wiring.num_latents))
        self.b_dec_X = nn.Parameter(torch.zeros(wiring.written.width))
        widths = {site.name: site.width for site in wiring.sites}
        self.W_skip = nn.ParameterList([torch.zeros(widths[written], widths[read]) for read, written in wiring.skip])

    # -- weights; a special parameterisation overrides these four methods ----------------------------------------

    def make_weights(self) -> None:
        """Create the parameters of every group, as zeros: encoder (F_group, X read), decoder (F_group, X written and
        not tied).

        Called once, when `__init__` has ended, so that every attribute of a subclass exists; before that, there are no
        weights.
        """
        layout, groups = self.wiring.layout, self.wiring.groups
        widths = {site.name: site.width for site in self.sites}
        self.W_enc = nn.ParameterList([torch.zeros(g.num_latents, layout.subset(g.reads).width) for g in groups])
        self.W_dec = nn.ParameterList(
            [torch.zeros(g.num_latents, sum(widths[name] for name in self.wiring.owned(g))) for g in groups]
        )

    def encoder_weight(self, index: int) -> Tensor:
        """Encoder rows of group `index`, (F_group, X read), with gradient."""
        rows: Tensor = self.W_enc[index]
        return rows

    def decoder_weight(self, index: int) -> Tensor:
        """Decoder rows of group `index`, (F_group, X written), with gradient; tied blocks are filled in."""
        if not self.wiring.ties:
            rows: Tensor = self.W_dec[index]
            return rows
        group = self.wiring.groups[index]
        return torch.cat([self._block((group.name, s)) for s in self.layout.subset(group.writes).names], dim=1)

    @torch.no_grad()
    def set_weights(self, index: int, W_enc: Tensor, W_dec: Tensor) -> None:
        """Set the rows of group `index` to these, or to the closest that the parameterisation allows."""
        self.W_enc[index].copy_(W_enc)
        group = self.wiring.groups[index]
        blocks = self.layout.subset(group.writes).unpack(W_dec)
        owned = [blocks[name] for name in self.wiring.owned(group)]
        if owned:
            self.W_dec[index].copy_(torch.cat(owned, dim=1))

    def _block(self, block: tuple[str, str]) -> Tensor:
        name, site = self.wiring.owners.get(block, block)
        index = [group.name for group in self.wiring.groups].index(name)
        owned = self.layout.subset(self.wiring.owned(self.wiring.groups[index]))
        return owned.unpack(self.W_dec[index])[site]

    # -- shape and place ----------------------------------------------------------------------------------------

    @property
    def sites(self) -> tuple[Site, ...]:
        """All sites, in the order of the input's columns."""
        return self.wiring.layout.sites

    @property
    def layout(self) -> SiteLayout:
        """The layout of the input's columns."""
        return self.wiring.layout

    @property
    def written(self) -> SiteLayout:
        """The layout of the output's columns: the sites that are reconstructed."""
        return self.wiring.written

    @property
    def num_latents(self) -> int:
        """F, the number of latents on this process."""
        return self.wiring.num_latents

    @property
    def num_parameters(self) -> int:
        """The number of trainable numbers: tied rows count once, and a factored architecture counts its factors."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def device(self) -> torch.device:
        """The device that holds the weights."""
        return self.b_enc_F.device

    @property
    def sharding(self) -> dict[str, str]:
        """How processes shard each tensor of the state that has one row per latent: `group` for a tensor over the
        latents of one group, `latents` for one over all groups. All other tensors are replicated."""
        kinds = {"b_enc_F": "latents"}
        kinds |= {name: "latents" for name, tensor in self.gate.named_buffers(prefix="gate") if tensor.dim() == 1}
        return kinds | {f"{table}.{i}": "group" for table in ("W_enc", "W_dec") for i in range(len(self.wiring.groups))}

    @property
    def replicated(self) -> list[nn.Parameter]:
        """Parameters replicated on every process, even when latents are sharded."""
        return [self.b_dec_X, *self.W_skip]

    def extra_repr(self) -> str:
        groups = ", ".join(f"{g.name}: {g.num_latents}" for g in self.wiring.groups)
        return f"sites=({', '.join(self.layout.names)}), latents=({groups})"

    # -- for users: raw units, any leading dimensions; arrays and nested lists will do for tensors -----------------

    def encode(self, x: Tensor | Mapping[str, Tensor]) -> Latents:
        """Encode raw activations (…, X) with the inference gate.

        Returns sparse `Latents`; call `.dense()` for a tensor (…, F), such as other libraries' `encode` returns. Values
        are the plain activations f, not multiplied by decoder norms. Raises `SiteError` if a number is not finite.
        """
        raw = self._packed(x).to(self.device)
        leading, raw_BX = tuple(raw.shape[:-1]), raw.reshape(-1, self.layout.width)
        x_BX: Tensor = self.normaliser(raw_BX).to(self.b_enc_F.dtype)
        check_finite(x_BX, raw_BX, self.layout, leading)
        norm_F = self.score_norms()
        pieces = []
        for pre_BF in self.pre_activation_pieces(x_BX):
            f_BF = pre_BF.relu()
            pieces.append(Latents.from_mask(self.gate.keep(f_BF.detach(), norm_F), f_BF))
        return Latents.concatenate(pieces).shaped(leading)

    def decode(self, latents: Latents | Tensor, x: Tensor | Mapping[str, Tensor] | None = None) -> Tensor:
        """Reconstruction of the written sites in raw units, (…, X written), with the leading dimensions of `latents`.

        A skip connection needs the input too.
        """
        if isinstance(latents, Latents):
            leading = latents.leading
            if latents.num_latents != self.num_latents:
                raise SiteError(f"latents of a crosscoder with {latents.num_latents} cannot be decoded here: {self}")
        else:
            f = as_dense_latents(latents, self.num_latents).to(self.device, self.b_enc_F.dtype)
            leading, latents = tuple(f.shape[:-1]), f.reshape(-1, self.num_latents)
        x_BX = None if x is None else self.normalised(x).reshape(-1, self.layout.width)
        x_hat_BX = self.normaliser.undo(self.decode_normalised(latents, x_BX), self.written.names)
        return x_hat_BX.reshape(*leading, self.written.width)

    def forward(self, x: Tensor | Mapping[str, Tensor]) -> Tensor:
        """`decode(encode(x))`."""
        raw = self._packed(x)
        return self.decode(self.encode(raw), raw if self.wiring.skip else None)

    def split(self, x_hat_BX: Tensor) -> dict[str, Tensor]:
        """Split a reconstruction into a mapping from each written site to its tensor."""
        return self.written.unpack(x_hat_BX)

    @torch.no_grad()
    def direction(self, latents: int | Sequence[int], site: str) -> Tensor:
        """What a value of 1 of a latent adds to the activations at a written site, in raw units: (D,), or (K, D) of K
        latents."""
        scale_D = self.normaliser.scale_X((site,))
        chosen = known_latents(latents, self.num_latents)
        row_KD = self.b_enc_F.new_zeros(len(chosen), self.written.subset([site]).width)
        for index, group in enumerate(self.wiring.groups):
            columns = self.wiring.latent_slices[group.name]
            mine = [k for k, j in enumerate(chosen) if columns.start <= j < columns.stop]
            if mine and site in group.writes:
                rows_KX = self.decoder_weight(index)[[chosen[k] - columns.start for k in mine]]
                row_KD[mine] = self.layout.subset(group.writes).unpack(rows_KX)[site]
        return (row_KD / scale_D)[0] if isinstance(latents, int) else row_KD / scale_D

    def change(
        self,
        changes: Mapping[int, Change],
        *,
        site: str,
        x: Mapping[str, Tensor] | None = None,
        keep_error: bool = True,
    ) -> Callable[[Tensor], Tensor]:
        """What `changes` of latents make of the activations at `site`, as a function of them; see `Edit.latents`."""
        return latent_change(self, changes, site=site, x=x, keep_error=keep_error)

    # -- for losses and analyses: normalised units --------------------------------------------------------------

    def normalised(self, x: Tensor | Mapping[str, Tensor]) -> Tensor:
        """Check and normalise raw activations; returns `x_BX` in fp32."""
        x_BX: Tensor = self.normaliser(self._packed(x).to(self.device))
        return x_BX.to(self.b_enc_F.dtype)

    def target(self, x_BX: Tensor) -> Tensor:
        """The columns of normalised `x_BX` that are reconstructed."""
        return x_BX[:, self._on_device(self.layout.columns(self.written.names))]

    def columns_read(self, group: LatentGroup) -> Columns:
        """The columns of the input that a latent group reads."""
        return self._on_device(self.layout.columns(group.reads))

    def pre_activations(self, x_BX: Tensor) -> Tensor:
        """W_enc x̃ + b_enc for every latent, dense (B, F), in fp32; under autocast the product may run in bf16."""
        parts = [
            functional.linear(
                x_BX[:, self.columns_read(group)],
                self.encoder_weight(index),
                self.b_enc_F[self.wiring.latent_slices[group.name]],
            )
            for index, group in enumerate(self.wiring.groups)
        ]
        return (parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)).to(self.b_enc_F.dtype)

    def pre_activation_pieces(self, x_BX: Tensor) -> Iterator[Tensor]:
        """Yield `pre_activations` of a few rows at a time, in order, so that no (B, F) tensor has to be held.

        Even an empty batch yields one piece.
        """
        for rows in self.pieces(x_BX):
            yield self.pre_activations(x_BX[rows])

    def pieces(self, x_BX: Tensor) -> list[slice]:
        """Slices of consecutive rows, each with about `ROW_PIECE_ELEMENTS` pre-activations; at least one slice."""
        elements = ROW_PIECE_ELEMENTS["cpu" if self.device.type == "cpu" else "cuda"]
        step = max(LEAST_PIECE_ROWS, elements // self.num_latents)
        return [slice(start, start + step) for start in range(0, max(1, len(x_BX)), step)]

    def pre_activations_of(self, x_BX: Tensor, latent_K: Tensor) -> Tensor:
        """W_enc x̃ + b_enc of the latents `latent_K` only, (B, K); `latent_K` must be in increasing order."""
        parts = []
        for index, group in enumerate(self.wiring.groups):
            columns = self.wiring.latent_slices[group.name]
            mine = latent_K[(latent_K >= columns.start) & (latent_K < columns.stop)]
            W = self.encoder_weight(index)[mine - columns.start]
            parts.append(functional.linear(x_BX[:, self.columns_read(group)], W, self.b_enc_F[mine]))
        return torch.cat(parts, dim=1).to(self.b_enc_F.dtype)

    def values(self, x_BX: Tensor, latents: Latents) -> Tensor:
        """The values of already selected `latents`, with gradients that touch only what fired: (N,)."""
        if len(self.wiring.groups) == 1:
            group = self.wiring.groups[0]
            return sparse_encode(x_BX[:, self.columns_read(group)], self.encoder_weight(0), self.b_enc_F, latents)
        value_N = torch.zeros_like(latents.value_N)
        for index, group in enumerate(self.wiring.groups):
            columns, W = self.wiring.latent_slices[group.name], self.encoder_weight(index)
            here_N = latents.inside(columns).nonzero().squeeze(1)
            part_N = sparse_encode(
                x_BX[:, self.columns_read(group)], W, self.b_enc_F[columns], latents.in_group(columns)
            )
            value_N = value_N.index_put((here_N,), part_N)
        return value_N

    def decode_normalised(
        self, latents: Latents | Tensor, x_BX: Tensor | None = None, *, value_N: Tensor | None = None
    ) -> Tensor:
        """Reconstruction of the written sites in normalised units, (B, X written).

        `latents` may be a dense tensor `f_BF`. `value_N` replaces the values of sparse latents, so that they carry a
        gradient.
        """
        with torch.autocast(self.device.type, enabled=False):
            blocks_BX = self.decode_without_bias(latents, value_N=value_N)
            x_hat_BX = self.processes.sum_with_gradient(blocks_BX) + self.b_dec_X
            if not self.wiring.skip:
                return x_hat_BX
            if x_BX is None:
                raise SiteError("a crosscoder with a skip connection needs the input to decode; pass x")
            for (read, written), W in zip(self.wiring.skip, self.W_skip, strict=True):
                # Each block touches its own columns only, so what does not lead to a site cannot change it.
                x_hat_BX[:, self.written.slices[written]] += functional.linear(x_BX[:, self.layout.slices[read]], W)
            return x_hat_BX

    def decode_without_bias(self, latents: Latents | Tensor, *, value_N: Tensor | None = None) -> Tensor:
        """The contribution of the decoder rows, without bias or skip: Σ f·d, (B, X written) in normalised units."""
        out_BX: Tensor | None = None
        for index, group in enumerate(self.wiring.groups):
            columns, W = self.wiring.latent_slices[group.name], self.decoder_weight(index)
            if isinstance(latents, Tensor):
                part_BX: Tensor = latents[:, columns] @ W
            else:
                mine = latents.in_group(columns)
                values = latents.value_N if value_N is None else value_N
                if mine is not latents:
                    values = values[latents.inside(columns)]
                part_BX = sparse_decode(values, W, mine)
            if len(self.wiring.groups) == 1:
                return part_BX
            indices = torch.arange(self.written.width)[self.written.columns(group.writes)].to(self.device)
            if out_BX is None:
                out_BX = part_BX.new_zeros(len(part_BX), self.written.width)
            out_BX = out_BX.index_add(1, indices, part_BX)
        assert out_BX is not None, "a wiring has at least one group"
        return out_BX

    def decoder_norms(self) -> Tensor:
        """‖d_i^s‖ of every latent at every written site, (F, S written), in normalised space; 0 where not written."""
        names = self.written.names
        if len(self.wiring.groups) == 1 and len({site.width for site in self.written.sites}) == 1:
            # Compute the norms at all sites in one pass over the rows.
            by_site: Tensor = self.decoder_weight(0).view(self.num_latents, len(names), -1).norm(dim=2)
            return by_site
        norms_FS = self.b_enc_F.new_zeros(self.num_latents, len(names))
        for index, group in enumerate(self.wiring.groups):
            latents = self.wiring.latent_slices[group.name]
            for name, rows_FD in self.layout.subset(group.writes).unpack(self.decoder_weight(index)).items():
                norms_FS[latents, names.index(name)] = rows_FD.norm(dim=1)
        return norms_FS

    @torch.no_grad()
    def score_norms(self) -> Tensor:
        """Σ_s‖d_i^s‖ without gradient, (F,): what activations are multiplied by where latents are compared."""
        return self.decoder_norms().sum(dim=1)

    def decoder_rows(self, site: str) -> Tensor:
        """Decoder rows at one written site, (F, D); zero rows for latents that do not write it.

        In **normalised** units, where every site has mean norm √D: for comparing sites. To add to a model's activations
        take `direction`, which is in the model's own units.
        """
        rows_FD = self.b_enc_F.new_zeros(self.num_latents, self.written.subset([site]).width)
        for index, group in enumerate(self.wiring.groups):
            if site in group.writes:
                rows = self.layout.subset(group.writes).unpack(self.decoder_weight(index))[site]
                rows_FD[self.wiring.latent_slices[group.name]] = rows
        return rows_FD

    @torch.no_grad()
    def folded(self) -> dict[str, Tensor]:
        """Weights with the normaliser folded in, for export: they take and return raw units.

        `W_enc.{g}`, `W_dec.{g}` (latent-major), `b_enc_F`, `b_dec_X` and, for each block of a skip connection,
        `W_skip.{i}`.
        """
        self.normaliser.require_known()
        folded = {"b_enc_F": self.b_enc_F.clone()}
        folded["b_dec_X"] = self.normaliser.undo(self.b_dec_X, self.written.names)
        for index, group in enumerate(self.wiring.groups):
            folded[f"W_enc.{index}"] = self.encoder_weight(index) * self.normaliser.scale_X(group.reads)
            folded[f"W_dec.{index}"] = self.decoder_weight(index) / self.normaliser.scale_X(group.writes)
        for index, (read, written) in enumerate(self.wiring.skip):
            gain = self.normaliser.scale_of(read) / self.normaliser.scale_of(written)
            folded[f"W_skip.{index}"] = self.W_skip[index] * gain
        return folded

    # -- private ------------------------------------------------------------------------------------------------

    def _packed(self, x: Tensor | Mapping[str, Tensor]) -> Tensor:
        needed = (*self.wiring.read.names, *(read for read, _ in self.wiring.skip))
        return as_activations(x, self.layout, needed)

    def _on_device(self, columns: Columns) -> Columns:
        return columns if isinstance(columns, slice) else columns.to(self.device)
