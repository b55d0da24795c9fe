"""The per-site normaliser: one scale per site, stored with the crosscoder, so that sites weigh equally."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..devices import precise
from ..errors import SiteError
from .sites import SiteLayout


class Normaliser(nn.Module):
    """Multiplies each site's activations by its scale √D / mean‖x‖, estimated before training.

    Afterwards the mean norm at each site is √D, so hyper-parameters carry over between layers and models.
    """

    scale_S: Tensor

    def __init__(self, layout: SiteLayout) -> None:
        super().__init__()
        self.layout = layout
        self.register_buffer("scale_S", torch.ones(len(layout.sites)))
        self._widths = [site.width for site in layout.sites]

    def set_mean_norms(self, mean_norm_S: Tensor) -> None:
        """Set the scales from the mean of ‖x‖ at each site."""
        if not bool(torch.isfinite(mean_norm_S).all()) or bool((mean_norm_S <= 0).any()):
            raise SiteError(f"mean activation norms must be positive and finite, not {mean_norm_S.tolist()}")
        norm_S = precise(mean_norm_S.cpu())
        self.scale_S.copy_(norm_S.new_tensor(self._widths).sqrt() / norm_S)

    def scale_X(self, names: tuple[str, ...] | None = None) -> Tensor:
        """The scale of each column, for all sites or for those in `names`."""
        chosen = [i for i, site in enumerate(self.layout.sites) if names is None or site.name in names]
        repeats = torch.tensor([self._widths[i] for i in chosen], device=self.scale_S.device)
        return self.scale_S[chosen].repeat_interleave(repeats, output_size=sum(self._widths[i] for i in chosen))

    def forward(self, x_BX: Tensor) -> Tensor:
        """Normalise raw activations; the result is in fp32."""
        return x_BX.to(self.scale_S.dtype) * self.scale_X()

    def undo(self, x_BX: Tensor, names: tuple[str, ...]) -> Tensor:
        """Convert normalised activations of the sites in `names` back to raw units."""
        return x_BX / self.scale_X(names)
