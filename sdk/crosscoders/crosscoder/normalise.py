"""The per-site normaliser: one scale per site, stored with the crosscoder, so that sites weigh equally."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isnan
from typing import Any

import torch
from torch import Tensor, nn

from ..devices import precise
from ..errors import SiteError
from .sites import SiteLayout


class Normaliser(nn.Module):
    """Multiplies each site's activations by its scale √D / mean‖x‖, estimated before training.

    After it the mean norm at each site is √D, so hyper-parameters carry over between layers and models. A scale can
    be *unknown* (NaN), where somebody else's file does not hold it: nothing can be encoded until it is given by
    `set_scales` or estimated by `estimate`.
    """

    scale_S: Tensor

    def __init__(self, layout: SiteLayout) -> None:
        super().__init__()
        self.layout = layout
        self.register_buffer("scale_S", torch.ones(len(layout.sites)))
        self._widths = [site.width for site in layout.sites]
        self._checked = True

    @property
    def unknown(self) -> tuple[str, ...]:
        """The sites whose scale is not known."""
        return tuple(name for name, scale in zip(self.layout.names, self.scale_S.tolist(), strict=True) if isnan(scale))

    def require_known(self) -> None:
        """`SiteError` where the scale of a site is unknown."""
        if self._checked:
            return
        if self.unknown:
            raise SiteError(
                f"the normalisation of site {', '.join(self.unknown)} is unknown, since the file that the weights come "
                "from does not say what activations were multiplied by; give it (normalisation={site: scale}, or "
                "'none' where they were taken as they are) or estimate it from activations (normaliser.estimate)"
            )
        self._checked = True

    def set_unknown(self, names: Iterable[str]) -> None:
        """Mark the scales of the sites called `names` as not known."""
        for name in names:
            self.scale_S[self.layout.names.index(name)] = torch.nan
        self._checked = False

    def set_scales(self, scales: Mapping[str, float]) -> None:
        """Set the scales of some sites: what their activations are multiplied by."""
        if scales:
            self.layout.subset(list(scales))
        for name, scale in scales.items():
            if not 0 < scale < float("inf"):
                raise SiteError(f"the scale of site {name} must be positive and finite, not {scale}")
            self.scale_S[self.layout.names.index(name)] = scale

    def estimate(self, x_BX: Tensor) -> None:
        """Set the scales that are unknown from raw activations of all sites: √D / mean‖x‖."""
        self.layout.check(x_BX)
        for name in self.unknown:
            x_BD = precise(x_BX[..., self.layout.slices[name]])
            mean_norm = float(x_BD.norm(dim=-1).mean())
            if not 0 < mean_norm < float("inf"):
                raise SiteError(f"the mean norm at site {name} must be positive and finite, not {mean_norm}")
            self.set_scales({name: x_BD.shape[-1] ** 0.5 / mean_norm})

    def set_mean_norms(self, mean_norm_S: Tensor) -> None:
        """Set the scales from the mean of ‖x‖ at each site."""
        if not bool(torch.isfinite(mean_norm_S).all()) or bool((mean_norm_S <= 0).any()):
            raise SiteError(f"mean activation norms must be positive and finite, not {mean_norm_S.tolist()}")
        norm_S = precise(mean_norm_S.cpu())
        self.scale_S.copy_(norm_S.new_tensor(self._widths).sqrt() / norm_S)

    def scale_of(self, name: str) -> Tensor:
        """The scale of one site, a scalar."""
        return self.scale_S[self.layout.names.index(name)]

    def scale_X(self, names: tuple[str, ...] | None = None) -> Tensor:
        """The scale of each column, for all sites or for those in `names`."""
        chosen = [i for i, site in enumerate(self.layout.sites) if names is None or site.name in names]
        # By views alone: an index or a count that is copied to a GPU waits for it.
        return torch.cat([self.scale_S[i].expand(self._widths[i]) for i in chosen])

    def forward(self, x_BX: Tensor) -> Tensor:
        """Raw activations to normalised ones, in fp32."""
        self.require_known()
        return x_BX.to(self.scale_S.dtype) * self.scale_X()

    def undo(self, x_BX: Tensor, names: tuple[str, ...]) -> Tensor:
        """Normalised activations of the sites called `names` back to raw units."""
        self.require_known()
        return x_BX / self.scale_X(names)

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        super()._load_from_state_dict(*arguments, **options)
        self._checked = False  # one look when first used, not one on every call, which would stall a GPU
