"""What plugins offer: a record with its provider, what it builds, and the catalogue of one kind.

A name that is offered twice is an error only when used. What a plugin builds is checked where it is built.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

from attrs import frozen

from ..errors import CrosscodersError, PluginError, listed, nearest
from .built_in import GATES
from .isolation import attempt, worded
from .products import check_product, options_class
from .specs import ComponentSpec, Lazy

S = TypeVar("S", bound=ComponentSpec)


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
