"""Discovery of plugins and the registry of what they offer.

A plugin that cannot be imported, or that yields anything but records, is set aside with the reason, which is appended
to every "no such component" error; it never breaks other plugins. A name that is offered twice is an error only when
used. What a plugin builds is checked where it is built.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import cache, cached_property, partial
from importlib.metadata import EntryPoint, entry_points
from itertools import islice
from types import ModuleType
from typing import Any, Generic, TypeVar

import pluggy
from attrs import frozen

from ..errors import CrosscodersError, PluginError, listed, nearest, shown
from .built_in import GATES
from .hookspecs import PROJECT, CrosscodersSpecs
from .isolation import attempt, printing_to_stderr, worded
from .products import check_product, options_class
from .specs import (
    AnalysisSpec,
    ArchitectureSpec,
    CheckpointFormatSpec,
    CommandSpec,
    ComponentSpec,
    GateSpec,
    Lazy,
    LossSpec,
    LossTermSpec,
    MetricSpec,
    ModelAdapterSpec,
    ObserverSpec,
    ReleaseSpec,
    TokenSourceSpec,
)

S = TypeVar("S", bound=ComponentSpec)

KINDS: Mapping[str, tuple[str, type[ComponentSpec]]] = {
    "architecture": ("crosscoders_architectures", ArchitectureSpec),
    "loss": ("crosscoders_losses", LossSpec),
    "loss term": ("crosscoders_loss_terms", LossTermSpec),
    "model adapter": ("crosscoders_model_adapters", ModelAdapterSpec),
    "analysis": ("crosscoders_analyses", AnalysisSpec),
    "token source": ("crosscoders_token_sources", TokenSourceSpec),
    "checkpoint format": ("crosscoders_checkpoint_formats", CheckpointFormatSpec),
    "gate": ("crosscoders_gates", GateSpec),
    "observer": ("crosscoders_observers", ObserverSpec),
    "metric": ("crosscoders_metrics", MetricSpec),
    "command": ("crosscoders_commands", CommandSpec),
    "release": ("crosscoders_pretrained", ReleaseSpec),
}
"""The hook and the record class of each kind of component."""

MOST_RECORDS = 1000
"""Records that one hook may yield; more are a fault, not an offer."""
OURS = {"crosscoders-plugins": "crosscoders_plugins", "crosscoders-adapters": "crosscoders_adapters"}
"""Entry-point names that no other distribution may take, and what they stand for."""


def component_command(kind: str, name: str = "") -> str:
    """The command that lists the components of a kind, or the options of one."""
    return " ".join(filter(None, ("crosscoders components", kind.replace(" ", "-"), name)))


@frozen
class Provider:
    """Where a component comes from."""

    plugin: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version} (plugin '{self.plugin}')"


HOST = Provider("crosscoders", "crosscoders", "built in")
"""Provider of what comes with the host itself."""


@frozen
class Offer(Generic[S]):
    """A record, together with its provider."""

    spec: S
    provider: Provider

    kind: str = ""

    def __str__(self) -> str:
        return f"the {self.kind} '{self.spec.name}' of {self.provider}"

    @property
    def qualified_name(self) -> str:
        """`plugin:name`, which is never ambiguous. Checkpoints store plugin and name separately."""
        return f"{self.provider.plugin}:{self.spec.name}"

    @property
    def is_built_in(self) -> bool:
        """Whether it is the host's own, which no plugin can take the name of."""
        return self.provider is HOST

    def config_class(self) -> type[Any]:
        """The class of its options; `PluginError` names the plugin where there is none."""
        return options_class(self._loaded(self.spec.config), str(self))

    def build(self, options: Any, *arguments: Any) -> Any:
        """Make the component. `PluginError` names the plugin where that fails or something else comes back."""
        function = self._loaded(self.spec.build)
        try:
            made = attempt(lambda: function(options, *arguments))
        except (CrosscodersError, MemoryError) as error:
            if isinstance(error, PluginError):
                raise PluginError(f"{self} could not be built: {error}") from error
            raise
        except Exception as error:  # third-party code
            raise PluginError(f"{self} could not be built: {worded(error)}") from error
        return check_product(made, [product.load() for product in self.spec.products], str(self))

    def reference(self) -> Any:
        """What `build` names, where that is the component itself; `PluginError` names the plugin where it is not."""
        return check_product(
            self._loaded(self.spec.build), [product.load() for product in self.spec.products], str(self)
        )

    def _loaded(self, reference: Lazy[Any]) -> Any:
        try:
            return reference.load()
        except PluginError as error:
            raise PluginError(f"{self} cannot be used: {error}") from error


BUILT_IN: Mapping[str, tuple[Offer[Any], ...]] = {"gate": tuple(Offer(spec, HOST, "gate") for spec in GATES)}
"""What the host offers itself; no plugin can take these names, so that any checkpoint means the same everywhere."""


@frozen
class SetAside:
    """A plugin, or one of its hooks, that could not be used, and why."""

    provider: Provider
    reason: str

    def __str__(self) -> str:
        return f"{self.provider}: {self.reason}"


class Catalog(Mapping[str, Offer[S]]):
    """All components of one kind that plugins offer, by name or by qualified name.

    `built_in` ones, the host's own, are found by name too, before any other.
    """

    def __init__(
        self,
        kind: str,
        offers: tuple[Offer[S], ...],
        set_aside: tuple[SetAside, ...],
        built_in: tuple[Offer[S], ...] = (),
    ) -> None:
        self.kind = kind
        self.offers, self.built_in = offers, built_in
        self._set_aside = set_aside

    def __getitem__(self, name: str) -> Offer[S]:
        """The offer called `name`; `PluginError` lists the alternatives if there is none, or more than one."""
        matches = [offer for offer in self.built_in if name == offer.spec.name]
        matches = matches or [offer for offer in self.offers if name in (offer.spec.name, offer.qualified_name)]
        if len(matches) == 1:
            return matches[0]
        if matches:
            choices = ", ".join(f"'{offer.qualified_name}' of {offer.provider}" for offer in matches)
            raise PluginError(f"{len(matches)} plugins provide the {self.kind} '{name}'; say which: {choices}")
        names = sorted({*self, *(offer.spec.name for offer in self.built_in)})
        guess = nearest(name, names)
        message = f"no {self.kind} is called '{name}'{guess or ';'} available: {', '.join(names) or 'none'}"
        aside = listed([f"not loaded: {one}" for one in self._set_aside], "\n  ")
        raise PluginError(f"{message}\n  {aside}" if aside else message)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(offer.spec.name for offer in self.offers))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, name: object) -> bool:
        return any(name in (offer.spec.name, offer.qualified_name) for offer in self.offers)


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
            for point, provider in registry._sorted_points(list(entry_points(group=PROJECT))):
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

    def _sorted_points(self, points: list[EntryPoint]) -> list[tuple[EntryPoint, Provider]]:
        """One entry point for each name, in the order of names, whatever the order of the path."""
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
                    self._put_aside(provider, PluginError(f"the name '{point.name}' belongs to {owner}"))
                continue
            if point.name in OURS and rank(point)[0]:
                self._put_aside(provider, PluginError(f"the name '{point.name}' belongs to crosscoders itself"))
                continue
            chosen[point.name] = point, provider
        return list(chosen.values())

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
                    records = attempt(partial(_read_records, impl, hook, record))
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


def _read_records(impl: Any, hook: str, record: type[ComponentSpec]) -> list[ComponentSpec]:
    if impl.hookwrapper or impl.wrapper:
        raise PluginError(f"{hook} only declares components, so it cannot be wrapped")
    specs: list[ComponentSpec] = []
    names: set[str] = set()
    for spec in islice(impl.function() or (), MOST_RECORDS + 1):
        if not isinstance(spec, record):
            raise PluginError(f"{hook} yielded {shown(spec)}, which is not a {record.__name__}")
        if spec.name in names:
            raise PluginError(f"{hook} yielded the name '{spec.name}' twice")
        if len(specs) == MOST_RECORDS:
            raise PluginError(f"{hook} yielded more than {MOST_RECORDS:,} records")
        names.add(spec.name)
        specs.append(spec)
    return specs


@cache
def get_registry() -> Registry:
    """The registry of this process, discovered once; every API takes `registry=` to use another."""
    return Registry.discover()
