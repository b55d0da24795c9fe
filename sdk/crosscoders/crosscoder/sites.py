"""Sites: the places that activations are taken from or written to, side by side in one tensor.

Shape letters used throughout: B tokens, S sites, D width of a site, X sum of widths, F latents, T positions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise

import torch
from attrs import field, frozen
from attrs.validators import ge, instance_of, matches_re
from torch import Tensor

from ..converters import as_tuple
from ..errors import SiteError, listed, nearest

Columns = slice | Tensor
"""Columns of `x_BX`: a slice if they are contiguous (a view, not a copy), otherwise indices."""


@frozen
class Site:
    """One place in one model: `model/point`, such as `base/layers.13`, and its width."""

    name: str = field(validator=matches_re(r"[\w.-]+/[\w.-]+"))
    width: int = field(validator=[instance_of(int), ge(1)])

    @property
    def model(self) -> str:
        """The key of the model."""
        return self.name.partition("/")[0]

    @property
    def point(self) -> str:
        """The hook point in the model, as its adapter calls it."""
        return self.name.partition("/")[2]


@frozen
class SiteLayout:
    """Several sites side by side in the columns of one tensor `x_BX`."""

    sites: tuple[Site, ...] = field(converter=as_tuple)

    def __attrs_post_init__(self) -> None:
        names = [site.name for site in self.sites]
        if not names:
            raise SiteError("a crosscoder needs at least one site")
        if len(set(names)) < len(names):
            twice = sorted(name for name, count in Counter(names).items() if count > 1)
            raise SiteError(f"a site is listed twice: {listed(twice, ', ')}")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names in column order."""
        return tuple(site.name for site in self.sites)

    @cached_property
    def width(self) -> int:
        """X, the sum of the widths."""
        return sum(site.width for site in self.sites)

    @cached_property
    def points_by_model(self) -> Mapping[str, list[str]]:
        """The points of each model that has a site, in column order."""
        points: dict[str, list[str]] = {}
        for site in self.sites:
            points.setdefault(site.model, []).append(site.point)
        return points

    @cached_property
    def _places(self) -> Mapping[str, int]:
        return {site.name: place for place, site in enumerate(self.sites)}

    @cached_property
    def slices(self) -> Mapping[str, slice]:
        """The columns of each site, by name."""
        slices, start = {}, 0
        for site in self.sites:
            slices[site.name] = slice(start, start + site.width)
            start += site.width
        return slices

    def subset(self, names: Sequence[str]) -> SiteLayout:
        """The layout of the sites in `names` only, in this layout's order."""
        places = self._places
        unknown = sorted({name for name in names if name not in places})
        if unknown:
            guess = nearest(unknown[0], places)
            there = listed(list(self.names), ", ")
            raise SiteError(f"unknown site {listed(unknown, ', ')}{guess or ';'} the sites are {there}")
        chosen = sorted({places[name] for name in names})
        return self if len(chosen) == len(self.sites) else SiteLayout(tuple(self.sites[i] for i in chosen))

    def columns(self, names: Sequence[str]) -> Columns:
        """The columns of the sites in `names`, in this layout's order."""
        slices = [self.slices[name] for name in self.subset(names).names]
        if all(left.stop == right.start for left, right in pairwise(slices)):
            return slice(slices[0].start, slices[-1].stop)
        return torch.cat([torch.arange(s.start, s.stop) for s in slices])

    def pack(self, activations: Mapping[str, Tensor]) -> Tensor:
        """Put tensors (..., D) of each site side by side: (..., X). `SiteError` if one is missing or misshapen."""
        missing = set(self.names) - set(activations)
        if missing:
            raise SiteError(
                f"no activations for site {', '.join(sorted(missing))}; got {', '.join(activations) or 'none'}"
            )
        for site in self.sites:
            if activations[site.name].shape[-1:] != (site.width,):
                raise SiteError(
                    f"site {site.name} has width {site.width}, but its activations have shape "
                    f"{tuple(activations[site.name].shape)}"
                )
        leading = {name: tuple(activations[name].shape[:-1]) for name in self.names}
        if len(set(leading.values())) > 1:
            different = listed([f"{shape} at {name}" for name, shape in leading.items()], ", ")
            raise SiteError(f"all sites should have activations of the same tokens, but there are {different}")
        return torch.cat([activations[name] for name in self.names], dim=-1)

    def unpack(self, x_BX: Tensor) -> dict[str, Tensor]:
        """Views of each site's columns."""
        self.check(x_BX)
        return {name: x_BX[..., self.slices[name]] for name in self.names}

    def check(self, x_BX: Tensor) -> None:
        """Raise `SiteError` unless the last dimension is X."""
        if x_BX.dim() == 0:
            raise SiteError(f"activations should have shape (…, {self.width}), but are a single number")
        if x_BX.shape[-1] != self.width:
            widths = listed([f"{site.width} ({site.name})" for site in self.sites], " + ")
            raise SiteError(
                f"activations of shape {tuple(x_BX.shape)} have width {x_BX.shape[-1]}, but the sites need "
                f"{self.width} = {widths}"
            )
