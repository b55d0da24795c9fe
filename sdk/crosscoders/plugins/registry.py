"""Discovery of plugins and the registry of what they offer.

A plugin that cannot be imported, or that yields anything but records, is set aside with the reason, which is appended
to every "no such component" error; it never breaks other plugins.
"""

from __future__ import annotations

import os
from functools import cache, cached_property, partial
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

import pluggy

from ..errors import PluginError
from .hookspecs import PROJECT, CrosscodersSpecs
from .installed import named_once
from .isolation import attempt, printing_to_stderr, worded
from .kinds import KINDS, read_records
from .offers import BUILT_IN, Catalog, Offer, Provider, SetAside
from .specs import (
    AnalysisSpec,
    ArchitectureSpec,
    CheckpointFormatSpec,
    CommandSpec,
    GateSpec,
    LossSpec,
    LossTermSpec,
    MetricSpec,
    ModelAdapterSpec,
    ObserverSpec,
    ReleaseSpec,
    TokenSourceSpec,
)


class Registry:
    """The plugins of this process and everything they offer, one typed catalogue for each kind.

    A new registry is empty; `Registry.discover()` fills one from the installed distributions.
    With `strict`, a broken plugin raises at once instead of being set aside.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self.strict = strict
        self.providers: list[Provider] = []
        self.set_aside: list[SetAside] = []
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(CrosscodersSpecs)

    @classmethod
    def discover(cls, *, strict: bool | None = None, disabled: frozenset[str] | None = None) -> Registry:
        """Read the entry-point group `crosscoders`, in the order of entry names.

        `CROSSCODERS_STRICT_PLUGINS=1` and `CROSSCODERS_DISABLE_PLUGINS=a,b` (or `all`) are the defaults of the two
        arguments.
        """
        if strict is None:
            strict = os.environ.get("CROSSCODERS_STRICT_PLUGINS", "") not in ("", "0")
        if disabled is None:
            names = os.environ.get("CROSSCODERS_DISABLE_PLUGINS", "").split(",")
            disabled = frozenset(name.strip() for name in names if name.strip())
        registry = cls(strict=strict)
        with printing_to_stderr():
            for point, provider in named_once(entry_points(group=PROJECT), registry._put_aside):
                if disabled & {point.name, "all"}:
                    registry.set_aside.append(SetAside(provider, "disabled by CROSSCODERS_DISABLE_PLUGINS"))
                    continue
                try:
                    module = attempt(point.load)
                except Exception as error:  # third-party code: whatever it raises must not break other plugins
                    registry._put_aside(provider, error)
                    continue
                registry._register(module, provider)
            _ = registry._offers
        return registry

    def register(self, plugin: object, *, name: str, distribution: str = "local", version: str = "0") -> None:
        """Add a plugin by hand: a module, or any object with hook implementations."""
        self._register(plugin, Provider(name, distribution, version))

    def _register(self, plugin: object, provider: Provider) -> None:
        def add() -> None:
            unknown = sorted(
                name
                for name in dir(plugin)
                if name.startswith("crosscoders_")
                and not isinstance(getattr(plugin, name), ModuleType)
                and getattr(getattr(plugin, name), f"{PROJECT}_impl", None) is not None
                and not hasattr(CrosscodersSpecs, name)
            )
            if unknown:
                raise PluginError(
                    f"it implements {', '.join(unknown)}, which this version of crosscoders does not have"
                )
            self._manager.register(plugin, name=provider.plugin)

        try:
            attempt(add)
        except Exception as error:
            self._put_aside(provider, error)
        else:
            self.providers.append(provider)
            self._invalidate()

    def _put_aside(self, provider: Provider, error: Exception) -> None:
        if self.strict:
            raise PluginError(f"{provider} cannot be used: {worded(error)}") from error
        self.set_aside.append(SetAside(provider, worded(error)))

    def _invalidate(self) -> None:
        self.__dict__.pop("_offers", None)

    @cached_property
    def _offers(self) -> dict[str, tuple[Offer[Any], ...]]:
        by_plugin = {provider.plugin: provider for provider in self.providers}
        offers: dict[str, tuple[Offer[Any], ...]] = {}
        for kind, (hook, record) in KINDS.items():
            collected: list[Offer[Any]] = []
            for impl in getattr(self._manager.hook, hook).get_hookimpls():
                provider = by_plugin[impl.plugin_name]
                try:
                    records = attempt(partial(read_records, impl, hook, record))
                    collected += [Offer(spec, provider, kind) for spec in records]
                except Exception as error:
                    self._put_aside(provider, error)
            offers[kind] = tuple(sorted(collected, key=lambda offer: offer.qualified_name))
        return offers

    def catalog(self, kind: str) -> Catalog[Any]:
        """The catalogue of `kind`, a key of `KINDS`."""
        offers = self._offers[kind]
        return Catalog(kind, offers, tuple(self.set_aside), BUILT_IN.get(kind, ()))

    @property
    def architectures(self) -> Catalog[ArchitectureSpec]:
        """Every architecture on offer."""
        return self.catalog("architecture")

    @property
    def losses(self) -> Catalog[LossSpec]:
        """Every loss on offer."""
        return self.catalog("loss")

    @property
    def loss_terms(self) -> Catalog[LossTermSpec]:
        """Every loss term on offer."""
        return self.catalog("loss term")

    @property
    def model_adapters(self) -> Catalog[ModelAdapterSpec]:
        """Every model adapter on offer."""
        return self.catalog("model adapter")

    @property
    def analyses(self) -> Catalog[AnalysisSpec]:
        """Every analysis on offer."""
        return self.catalog("analysis")

    @property
    def token_sources(self) -> Catalog[TokenSourceSpec]:
        """Every token source on offer."""
        return self.catalog("token source")

    @property
    def checkpoint_formats(self) -> Catalog[CheckpointFormatSpec]:
        """Every foreign checkpoint format on offer."""
        return self.catalog("checkpoint format")

    @property
    def gates(self) -> Catalog[GateSpec]:
        """Every gate on offer, the host's own among them."""
        return self.catalog("gate")

    @property
    def observers(self) -> Catalog[ObserverSpec]:
        """Every run observer on offer."""
        return self.catalog("observer")

    @property
    def metrics(self) -> Catalog[MetricSpec]:
        """Every further metric on offer."""
        return self.catalog("metric")

    @property
    def commands(self) -> Catalog[CommandSpec]:
        """Every command that plugins add to the command line."""
        return self.catalog("command")

    @property
    def releases(self) -> Catalog[ReleaseSpec]:
        """Every known public release."""
        return self.catalog("release")

    def listing(self) -> dict[str, Any]:
        """The plugins with their components, and those set aside, as plain data."""
        components = [(kind, offer) for kind in KINDS for offer in self.catalog(kind).offers]
        return {
            "plugins": [
                {
                    "plugin": provider.plugin,
                    "distribution": provider.distribution,
                    "version": provider.version,
                    "components": [
                        {"kind": kind, "name": offer.spec.name, "summary": offer.spec.summary}
                        for kind, offer in components
                        if offer.provider == provider
                    ],
                }
                for provider in self.providers
            ],
            "built_in": [
                {"kind": kind, "name": offer.spec.name, "summary": offer.spec.summary}
                for kind, offers in BUILT_IN.items()
                for offer in offers
            ],
            "set_aside": [
                {
                    "plugin": aside.provider.plugin,
                    "distribution": aside.provider.distribution,
                    "version": aside.provider.version,
                    "reason": aside.reason,
                }
                for aside in self.set_aside
            ],
        }


@cache
def get_registry() -> Registry:
    """The registry of this process, discovered once; every API takes `registry=` to use another."""
    return Registry.discover()
