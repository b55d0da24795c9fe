"""What plugins hand to the host: frozen records that name a component and say where its code is.

A record holds lazy references, so listing components imports none of the code behind them (nor torch).
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Generic, TypeVar

from attrs import field, frozen
from attrs.validators import instance_of, matches_re

from ..errors import PluginError

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


@frozen(kw_only=True)
class LossTermSpec(ComponentSpec):
    """`build(options)` returns a `LossTerm` module."""


@frozen(kw_only=True)
class LossSpec(ComponentSpec):
    """`build(options)` returns a `Loss` module."""


@frozen(kw_only=True)
class ModelAdapterSpec(ComponentSpec):
    """`build(options)` returns a `ModelAdapter`, its model loaded."""


@frozen(kw_only=True)
class AnalysisSpec(ComponentSpec):
    """`build(options)` returns an `Analysis`."""


@frozen(kw_only=True)
class TokenSourceSpec(ComponentSpec):
    """`build(options)` returns a `TokenSource`."""


@frozen(kw_only=True)
class CheckpointFormatSpec(ComponentSpec):
    """`build(options)` returns a `CheckpointFormat`: reader and writer of somebody else's files."""


@frozen(kw_only=True)
class ObserverSpec(ComponentSpec):
    """`build(options)` returns an `Observer` of training runs."""


@frozen
class NoOptions:
    """The config class of a component that has no options."""
