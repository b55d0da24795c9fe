"""The plugins that are installed, by the entry points of distributions, and whose each name is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint

from ..errors import PluginError
from .hookspecs import PROJECT
from .offers import Provider

OURS = {"crosscoders-plugins": "crosscoders_plugins", "crosscoders-adapters": "crosscoders_adapters"}
"""Entry-point names that no other distribution may take, and what they stand for."""


def named_once(
    points: Iterable[EntryPoint], put_aside: Callable[[Provider, PluginError], None]
) -> list[tuple[EntryPoint, Provider]]:
    """One entry point for each name, in the order of names, whatever the order of the path.

    `put_aside` is told of those whose name belongs to another.
    """
    chosen: dict[str, tuple[EntryPoint, Provider]] = {}

    def rank(point: EntryPoint) -> tuple[bool, bool, str]:
        distribution = point.dist.name if point.dist else ""
        ours = distribution == PROJECT and OURS.get(point.name) == point.value
        return (not ours, distribution != point.name, distribution)

    for point in sorted(points, key=lambda point: (point.name, rank(point))):
        distribution = point.dist
        provider = Provider(
            point.name,
            distribution.name if distribution else "unknown",
            distribution.version if distribution else "unknown",
        )
        if point.name in chosen:
            first, owner = chosen[point.name]
            # The same distribution can be seen twice (two copies on the path); the first one counts.
            if (owner.distribution, first.value) != (provider.distribution, point.value):
                put_aside(provider, PluginError(f"the name '{point.name}' belongs to {owner}"))
            continue
        if point.name in OURS and rank(point)[0]:
            put_aside(provider, PluginError(f"the name '{point.name}' belongs to crosscoders itself"))
            continue
        chosen[point.name] = point, provider
    return list(chosen.values())
