"""The records that plugins yield: each names a component and says where its code is.

References in a record are lazy, so listing components imports neither the code behind them nor torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, ClassVar, Generic, TypeVar

from attrs import field, frozen
from attrs.validators import instance_of, matches_re

from ..errors import PluginError
from .isolation import attempt, worded

T = TypeVar("T")


@frozen
class Lazy(Generic[T]):
    """A reference `"package.module:name"`, imported on `load()`."""

    target: str = field(validator=matches_re(r"[\w.]+:\w+"))

    def load(self) -> T:
        """Import and return what the reference names; `PluginError` if that fails."""
        module, _, name = self.target.partition(":")
        try:
            loaded: T = attempt(lambda: getattr(import_module(module), name))
        except Exception as error:  # third-party code
            raise PluginError(
                f"a plugin refers to '{self.target}', which cannot be imported: {worded(error)}"
            ) from error
        return loaded


def _lazy(value: Any) -> Any:
    return Lazy(value) if isinstance(value, str) else value


def _strings(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


@frozen(kw_only=True)
class ComponentSpec:
    """What all records have in common: a name, the class of the options, and the function that builds the component."""

    products: ClassVar[tuple[Lazy[type[Any]], ...]] = ()
    """What `build` may return: instances of these classes, or of what has the methods of these protocols."""
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

    products = (
        Lazy("crosscoders:Wiring"),
        Lazy("crosscoders:Crosscoder"),
    )


@frozen(kw_only=True)
class LossTermSpec(ComponentSpec):
    """`build(options)` returns a `LossTerm` module."""

    products = (Lazy("crosscoders:LossTerm"),)


@frozen(kw_only=True)
class LossSpec(ComponentSpec):
    """`build(options)` returns a `Loss` module."""

    products = (Lazy("crosscoders:Loss"),)


@frozen(kw_only=True)
class ModelAdapterSpec(ComponentSpec):
    """`build(options)` returns a `ModelAdapter`, its model loaded."""

    products = (Lazy("crosscoders:ModelAdapter"),)


@frozen(kw_only=True)
class AnalysisSpec(ComponentSpec):
    """`build(options)` returns an `Analysis`."""

    products = (Lazy("crosscoders:Analysis"),)


@frozen(kw_only=True)
class TokenSourceSpec(ComponentSpec):
    """`build(options)` returns a `TokenSource`."""

    products = (Lazy("crosscoders:TokenSource"),)


@frozen(kw_only=True)
class CheckpointFormatSpec(ComponentSpec):
    """`build(options)` returns a `CheckpointFormat`, which reads and writes another library's files."""

    products = (Lazy("crosscoders:CheckpointFormat"),)


@frozen(kw_only=True)
class GateSpec(ComponentSpec):
    """`build(options)` returns a `Gate`, whose `name` is the record's."""

    products = (Lazy("crosscoders:Gate"),)


@frozen(kw_only=True)
class ObserverSpec(ComponentSpec):
    """`build(options)` returns an `Observer` of training runs."""

    products = (Lazy("crosscoders:Observer"),)


@frozen(kw_only=True)
class MetricSpec(ComponentSpec):
    """`build(options)` returns a `Metric`."""

    products = (Lazy("crosscoders:Metric"),)


@frozen(kw_only=True)
class CommandSpec(ComponentSpec):
    """`build` is a command of `click` itself, a `click.Command` or `click.Group`; its `summary` is what `--help` lists.

    It is imported when somebody calls it, and then under the name of the record.
    """

    products = (Lazy("click:Command"),)
    name: str = field(validator=matches_re(r"[a-z][a-z0-9-]*"))
    """What is typed after `crosscoders`: lower-case letters, digits and hyphens."""
    config: Lazy[type[Any]] = field(default=Lazy("crosscoders:NoOptions"), init=False)


@frozen(kw_only=True)
class ReleaseSpec(ComponentSpec):
    """A crosscoder that somebody has published: data, so that it can be found and loaded by a short name.

    `from_pretrained(name)` loads `repository` at `subfolder` as `format`, with `sites` as answers.
    """

    name: str = field(validator=matches_re(r"[a-z0-9][a-z0-9._-]*"))
    """The short name."""
    config: Lazy[type[Any]] = field(default=Lazy("crosscoders:NoOptions"), init=False)
    build: Lazy[Callable[..., Any]] = field(default=Lazy("crosscoders:Crosscoder"), init=False)
    repository: str = field(validator=matches_re(r"[\w.-]+/[\w.-]+"))
    """On the Hub."""
    subfolder: str = field(default="", validator=instance_of(str))
    """In the repository; with `…` where there are many, to be filled in by `subfolder=`."""
    revision: str = field(default="", validator=instance_of(str))
    format: str = field(validator=instance_of(str))
    """The checkpoint format that reads it."""
    family: str = field(validator=instance_of(str))
    """Crosscoder, cross-layer transcoder, transcoder, sparse autoencoder …"""
    models: tuple[str, ...] = field(converter=_strings)
    """The models that it was trained on."""
    sites: Mapping[str, str] = field(factory=dict)
    """Slot to site, as far as the publisher says what the files do not."""
    num_latents: int = field(default=0, validator=instance_of(int))
    """Latents, of each layer where there are several; 0 where it is not known here."""
    gate: str = field(default="", validator=instance_of(str))
    l0: float | None = None
    """Active latents per token, where published."""
    to_answer: str = field(default="", validator=instance_of(str))
    """What has to be answered when loading it."""

    @property
    def searched(self) -> tuple[str, ...]:
        """What `pretrained()` searches, in lower case."""
        return tuple(
            text.lower() for text in (self.name, self.repository, self.format, self.family, *self.models, self.summary)
        )


@frozen
class NoOptions:
    """The config class of a component that has no options."""
