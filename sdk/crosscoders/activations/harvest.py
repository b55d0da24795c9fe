"""Activations of all sites from all models on the same tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from ..crosscoder.sites import Site, SiteLayout
from ..errors import SiteError, TrainingError
from ..models.adapter import ModelAdapter
from ..models.names import canonical_site
from ..models.tokens import Partner, TokenBatch


def resolve_sites(adapters: Mapping[str, ModelAdapter], names: Sequence[str]) -> SiteLayout:
    """Look up `model/point` names and return their layout, by the points' own names.

    `SiteError` lists the valid names if one is unknown.
    """
    sites = []
    for name in names:
        model, slash, _ = name.partition("/")
        if not slash or model not in adapters:
            raise SiteError(f"site '{name}' should be MODEL/POINT, where MODEL is one of {', '.join(adapters)}")
        own = canonical_site(name, adapters)
        sites.append(Site(own, adapters[model].width(own.partition("/")[2])))
    return SiteLayout(tuple(sites))


class Harvester:
    """Runs each model once per batch of rows, and only as far as the last point that is needed.

    A model with a different vocabulary reads its own tokens; its activations are then moved to the positions of the
    reading model's tokens that they are paired with.
    """

    def __init__(
        self,
        adapters: Mapping[str, ModelAdapter],
        layout: SiteLayout,
        *,
        rows_per_forward: int,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.adapters = {key: adapter for key, adapter in adapters.items() if key in layout.points_by_model}
        self.layout, self.rows_per_forward = layout, rows_per_forward
        self.device, self.autocast = device, autocast
        self._lock = Lock()
        self.watch: Callable[[int], object] | None = None
        """Told of the tokens of each forward pass."""

    @torch.no_grad()
    def __call__(self, tokens: TokenBatch) -> Tensor:
        """Raw activations of all sites side by side, (B, T, X) in fp32. `TrainingError` names a site with non-finite
        values."""
        # Training may ask for held-out activations while a thread harvests, and model hooks are not thread-safe.
        with self._lock, self.autocast():
            pieces = []
            for start in range(0, len(tokens.ids), self.rows_per_forward):
                rows = tokens.sequences(start, start + self.rows_per_forward).to(self.device)
                pieces.append(self._forward(rows))
                if self.watch is not None:
                    self.watch(rows.ids.numel())
        if not pieces:
            return torch.zeros(0, tokens.ids.shape[1], self.layout.width, device=self.device)
        return torch.cat(pieces)

    def _forward(self, tokens: TokenBatch) -> Tensor:
        length = tokens.ids.shape[1]
        # Rows that are not packed may all be short: nothing is run for columns that are only padding.
        tokens = _without_empty_columns(tokens)
        by_site = {}
        for key, adapter in self.adapters.items():
            points = self.layout.points_by_model[key]
            partner = tokens.partners.get(key)
            for point, activation in adapter.activations(partner.tokens if partner else tokens, points).items():
                paired = partner.gather(activation) if partner else activation
                # A model whose parts have devices of their own (`device_map`) may begin on another.
                by_site[f"{key}/{point}"] = paired.to(self.device, torch.float32)
        x_BTX = self.layout.pack(by_site)
        self._check_finite(x_BTX, tokens)
        return nn.functional.pad(x_BTX, (0, 0, 0, length - x_BTX.shape[1]))

    def _check_finite(self, x_BTX: Tensor, tokens: TokenBatch) -> None:
        # A sum is cheap and finite only if every value is. Only when it is not, search for the site and the token.
        if bool(torch.isfinite(x_BTX.sum())):
            return
        for name, part in self.layout.unpack(x_BTX).items():
            bad_BT = ~torch.isfinite(part).all(dim=-1) & tokens.attention
            if bool(bad_BT.any()):
                row, position = (int(i) for i in bad_BT.nonzero()[0])
                raise TrainingError(
                    f"activations at site {name} are not finite, first at token {position} of a sequence "
                    f"(token id {int(tokens.ids[row, position])})"
                )

    def norms(self, x_BTX: Tensor) -> Tensor:
        """‖x‖ of each token at each site, (B, T, S)."""
        return torch.stack([part.norm(dim=-1) for part in self.layout.unpack(x_BTX).values()], dim=-1)


def _without_empty_columns(tokens: TokenBatch) -> TokenBatch:
    """The rows up to the last place where one of them has a token."""
    used = int((tokens.attention.any(dim=0).nonzero().amax() if bool(tokens.attention.any()) else 0) + 1)
    if used == tokens.ids.shape[1]:
        return tokens
    own = TokenBatch(tokens.ids, tokens.attention, tokens.bos, tokens.special, {}, tokens.document).mapped(
        lambda tensor: tensor[:, :used]
    )
    partners = {key: Partner(partner.tokens, partner.position_BT[:, :used]) for key, partner in tokens.partners.items()}
    return TokenBatch(own.ids, own.attention, own.bos, own.special, partners, own.document)
