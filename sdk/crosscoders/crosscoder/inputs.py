"""Activations as users hand them over: tensors, arrays and lists with any leading dimensions, in one or by site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import SiteError, shown
from .sites import SiteLayout


def as_activations(x: Any, layout: SiteLayout, needed: Sequence[str]) -> Tensor:
    """`x` as one tensor (…, X) with the sites side by side; of a mapping only the sites `needed` must be there.

    `SiteError`, naming the site, where it is anything else.
    """
    if not isinstance(x, Mapping):
        tensor = _as_tensor(x, "activations")
        layout.check(tensor)
        return tensor
    by_site = {name: _as_tensor(x[name], f"activations of site {name}") for name in layout.names if name in x}
    missing = [site for site in layout.sites if site.name not in needed and site.name not in by_site]
    if missing and set(needed) <= set(by_site):
        # Sites that are only written do not matter for encoding.
        like = by_site[needed[0]]
        by_site |= {site.name: like.new_zeros(*like.shape[:-1], site.width) for site in missing}
    return layout.pack(by_site)


def as_dense_latents(f: Any, num_latents: int) -> Tensor:
    """Dense latents (…, F); `SiteError` where there are not F."""
    tensor = _as_tensor(f, "dense latents")
    if tensor.dim() == 0 or tensor.shape[-1] != num_latents:
        raise SiteError(f"dense latents should have shape (…, {num_latents}), not {tuple(tensor.shape)}")
    return tensor


def check_finite(normalised_BX: Tensor, raw_BX: Tensor, layout: SiteLayout, leading: tuple[int, ...]) -> None:
    """`SiteError` that names the site and the row of activations that are infinite or not a number.

    Latents of such a row would look like any others: comparisons with NaN are false, and ReLU of −∞ is 0.
    """
    # One sum tells, unless finite numbers add up to infinity.
    if normalised_BX.is_meta or bool(torch.isfinite(normalised_BX.detach().sum(dtype=torch.float32))):
        return
    for name, part_BD in layout.unpack(normalised_BX.detach()).items():
        bad_B = ~torch.isfinite(part_BD).all(dim=-1)
        if bool(bad_B.any()):
            row = int(bad_B.nonzero()[0])
            raw_D = raw_BX[row, layout.slices[name]]
            kind = "not a number" if bool(torch.isnan(raw_D).any()) else "infinite"
            if bool(torch.isfinite(raw_D).all()):
                kind = "too large for the type of the weights"
            place = tuple(int(i) for i in torch.unravel_index(torch.tensor(row), leading)) if leading else ()
            where = f" in row {', '.join(map(str, place))}" if place else ""
            raise SiteError(f"activations at site {name} are {kind}{where}; leave such tokens out")


def _as_tensor(value: Any, what: str) -> Tensor:
    if not isinstance(value, Tensor):
        try:
            if isinstance(value, list | tuple) and value and all(isinstance(item, Tensor) for item in value):
                value = torch.stack(list(value))
            else:
                value = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise SiteError(f"{what} should be a tensor, an array or a list of numbers, not {shown(value)}") from error
    if value.is_complex() or value.layout != torch.strided:
        raise SiteError(f"{what} should be a dense tensor of real numbers, not of {value.dtype} ({value.layout})")
    tensor: Tensor = value
    return tensor
