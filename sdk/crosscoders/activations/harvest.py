"""Activations of all sites from all models on the same tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from ..crosscoder.sites import Site, SiteLayout
from ..errors import SiteError, TrainingError
from ..models.adapter import ModelAdapter
from ..models.tokens import TokenBatch


def resolve_sites(adapters: Mapping[str, ModelAdapter], names: Sequence[str]) -> SiteLayout:
    """Look up `model/point` names: which model, which point, how wide. `SiteError` names what there is."""
    sites = []
    for name in names:
        model, slash, point = name.partition("/")
        if not slash or model not in adapters:
            raise SiteError(f"site '{name}' should be MODEL/POINT with a model of {', '.join(adapters)}")
        sites.append(Site(name, adapters[model].width(point)))
    return SiteLayout(tuple(sites))


class Harvester:
    """Runs each model once per batch of rows, only as far as its last needed point.

    Models with another vocabulary read their own tokens; their activations are put where the reading model's paired
    tokens are.
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
        self.adapters = {key: adapter for key, adapter in adapters.items() if any(s.model == key for s in layout.sites)}
        self.layout, self.rows_per_forward, self.device, self.autocast = (
            layout,
            rows_per_forward,
            device,
            autocast,
        )
        self._lock = Lock()
        self.watch: Callable[[int], object] | None = None
        """Told of the tokens of each forward pass."""

    @torch.no_grad()
    def __call__(self, tokens: TokenBatch) -> Tensor:
        """Raw activations side by side, (B, T, X) in fp32. `TrainingError` names a site that is not finite."""
        # Training may ask for held-out activations while a thread harvests, and hooks of a model are for one at a time.
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
        by_site = {}
        for key, adapter in self.adapters.items():
            points = [site.point for site in self.layout.sites if site.model == key]
            partner = tokens.partners.get(key)
            for point, activation in adapter.activations(partner.tokens if partner else tokens, points).items():
                by_site[f"{key}/{point}"] = (partner.gather(activation) if partner else activation).float()
        x_BTX = self.layout.pack(by_site)
        self._check_finite(x_BTX, tokens)
        return x_BTX

    def _check_finite(self, x_BTX: Tensor, tokens: TokenBatch) -> None:
        # One sum is cheap and is finite only if every value is; look for the culprit only when it is not.
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
