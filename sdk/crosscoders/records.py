"""What plugins hand to the host: frozen records that name a component and say where its code is.

A record holds lazy references, so listing components imports none of the code behind them (nor torch).
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from attrs import field, frozen
from attrs.validators import instance_of, matches_re

from .errors import PluginError

if TYPE_CHECKING:
    from .crosscoder import Crosscoder
    from .losses import Loss, LossTerm
    from .protocols import Analysis, CheckpointFormat, ModelAdapter, Observer, TokenSource
    from .sites import Site
    from .wiring import Wiring

T = TypeVar("T")


@frozen
class Lazy(Generic[T]):
    """A reference `"package.module:name"`, imported on `load()`."""

    target: str = field(validator=matches_re(r"[\w.]+:\w+"))

    def load(self) -> T:
        """Import and return what the reference names; `PluginError` if that fails."""
        module, _, name = self.target.partition(":")
        try:
            loaded: T = getattr(import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise PluginError(f"a plugin refers to '{self.target}', which cannot be imported: {error}") from error
        return loaded


def _lazy(value: Any) -> Any:
    return Lazy(value) if isinstance(value, str) else value


@frozen(kw_only=True)
class ComponentSpec:
    """Common part of all records: a name, the class of its options, and what builds it."""

    name: str = field(validator=matches_re(r"[a-z][a-z0-9_]*"))
    """How configs call the component: lower case, digits, underscores."""
    config: Lazy[type[Any]] = field(converter=_lazy, validator=instance_of(Lazy))
    """A frozen attrs class with the component's options."""
    build: Lazy[Callable[..., Any]] = field(converter=_lazy, validator=instance_of(Lazy))
    """Called with the options first; each record says what else it gets and must return."""
    summary: str = field(default="", validator=instance_of(str))
    """One line for listings."""


@frozen(kw_only=True)
class ArchitectureSpec(ComponentSpec):
    """`build(options, sites)` returns the wiring: which latents read and write which sites.

    A special parameterisation returns its own module instead, an instance of a subclass of `Crosscoder`.
    """

    build: Lazy[Callable[[Any, tuple[Site, ...]], Wiring | Crosscoder]] = field(
        converter=_lazy, validator=instance_of(Lazy)
    )


@frozen(kw_only=True)
class LossTermSpec(ComponentSpec):
    """`build(options)` returns a `LossTerm` module."""

    build: Lazy[Callable[[Any], LossTerm]] = field(converter=_lazy, validator=instance_of(Lazy))


@frozen(kw_only=True)
class LossSpec(ComponentSpec):
    """`build(options)` returns a `Loss` module."""

    build: Lazy[Callable[[Any], Loss]] = field(converter=_lazy, validator=instance_of(Lazy))


@frozen(kw_only=True)
class ModelAdapterSpec(ComponentSpec):
    """`build(options)` returns a `ModelAdapter`, its model loaded."""

    build: Lazy[Callable[[Any], ModelAdapter]] = field(converter=_lazy, validator=instance_of(Lazy))


@frozen(kw_only=True)
class AnalysisSpec(ComponentSpec):
    """`build(options)` returns an `Analysis`."""

    build: Lazy[Callable[[Any], Analysis]] = field(converter=_lazy, validator=instance_of(Lazy))


@frozen(kw_only=True)
class TokenSourceSpec(ComponentSpec):
    """`build(options)` returns a `TokenSource`."""

    build: Lazy[Callable[[Any], TokenSource]] = field(converter=_lazy, validator=instance_of(Lazy))


@frozen(kw_only=True)
class CheckpointFormatSpec(ComponentSpec):
    """`build(options)` returns a `CheckpointFormat`: reader and writer of somebody else's files."""

    build: Lazy[Callable[[Any], CheckpointFormat]] = field(converter=_lazy, validator=instance_of(Lazy))


@frozen(kw_only=True)
class ObserverSpec(ComponentSpec):
    """`build(options)` returns an `Observer` of training runs."""

    build: Lazy[Callable[[Any], Observer]] = field(converter=_lazy, validator=instance_of(Lazy))


@frozen
class NoOptions:
    """The config class of a component that has no options."""
