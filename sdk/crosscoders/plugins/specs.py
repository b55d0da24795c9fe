"""The records that plugins yield: each names a component and says where its code is.

References in a record are lazy, so listing components imports neither the code behind them nor torch.
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
    """What all records have in common: a name, the class of the options, and the function that builds the component."""

    name: str = field(validator=matches_re(r"[a-z][a-z0-9_]*"))
    """The name by which configs choose the component: lower-case letters, digits and underscores."""
    config: Lazy[type[Any]] = field(converter=_lazy, validator=instance_of(Lazy))
    """A frozen attrs class with the component's options."""
    build: Lazy[Callable[..., Any]] = field(converter=_lazy, validator=instance_of(Lazy))
    """Builds the component. Its first argument is the options; each record class says what else it is given and what it
    must return."""
    summary: str = field(default="", validator=instance_of(str))
    """One line that describes the component in listings."""


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
    """`build(options)` returns a `CheckpointFormat`, which reads and writes another library's files."""


@frozen(kw_only=True)
class ObserverSpec(ComponentSpec):
    """`build(options)` returns an `Observer` of training runs."""


@frozen
class NoOptions:
    """The config class of a component that has no options."""
