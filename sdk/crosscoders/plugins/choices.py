"""Reading configs: frozen attrs classes from TOML or mappings. Unknown keys are errors, and errors name the path.

A table `{name = "batchtopk", k = 32}` chooses a component; the registry knows the class of its options.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import attrs
import cattrs
from attrs import field, frozen
from cattrs.v import format_exception

from ..errors import ConfigError, PluginError
from .registry import Offer, Registry, get_registry

T = TypeVar("T")


@frozen
class Choice:
    """A component that a config chooses: its name, and its options as an instance of the component's config class."""

    kind: ClassVar[str]
    name: str
    options: Any = field()

    @classmethod
    def of(cls, name: str, /, registry: Registry | None = None, **options: Any) -> Self:
        """Choose a component by name, such as `LossChoice.of("batchtopk", k=32)`."""
        return structure({"name": name, **options}, cls, registry=registry)

    def offer(self, registry: Registry | None = None) -> Offer[Any]:
        """Look up the registry's record of this component."""
        return (registry or get_registry()).catalog(self.kind)[self.name]

    def build(self, *arguments: Any, registry: Registry | None = None) -> Any:
        """Build the component; the record's class says which arguments it takes and what it returns."""
        return self.offer(registry).spec.build.load()(self.options, *arguments)


class ArchitectureChoice(Choice):
    """An architecture and its options."""

    kind = "architecture"


class LossChoice(Choice):
    """A loss and its options."""

    kind = "loss"


class LossTermChoice(Choice):
    """A loss term and its options."""

    kind = "loss term"


class ModelChoice(Choice):
    """A model adapter and its options."""

    kind = "model adapter"


class TokenSourceChoice(Choice):
    """A token source and its options."""

    kind = "token source"


class AnalysisChoice(Choice):
    """An analysis and its options."""

    kind = "analysis"


class ObserverChoice(Choice):
    """A run observer and its options."""

    kind = "observer"


def structure(data: Any, cls: type[T], *, registry: Registry | None = None, where: str = "") -> T:
    """Make an instance of `cls` from plain data; `ConfigError` lists every problem with its path."""
    try:
        return _converter(registry or get_registry()).structure(data, cls)
    except cattrs.BaseValidationError as error:
        problems = cattrs.transform_error(error, format_exception=_explain)
        raise ConfigError("; ".join(problems) + (f" (in {where})" if where else "")) from error


def unstructure(config: Any) -> Any:
    """Convert a config to plain JSON data, which `structure` reads back."""
    return _plain(config)


def read_toml(path: Path, cls: type[T], *, registry: Registry | None = None) -> T:
    """Read a config from a TOML file."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the config {path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    return structure(data, cls, registry=registry, where=str(path))


def _plain(value: Any) -> Any:
    if isinstance(value, Choice):
        return {"name": value.name, **_plain(value.options)}
    if attrs.has(type(value)):
        return {a.name: _plain(getattr(value, a.name)) for a in attrs.fields(type(value))}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _explain(error: BaseException, kind: type | None) -> str:
    # Validators and plugin look-ups already say what is wrong; cattrs' own wording would hide it.
    if isinstance(error, PluginError | ConfigError | ValueError | TypeError) and not isinstance(
        error, cattrs.BaseValidationError
    ):
        text = error.args[0] if error.args else str(error)
        if isinstance(error, cattrs.errors.ForbiddenExtraKeysError):
            return format_exception(error, kind)
        return str(text)
    return format_exception(error, kind)


def _converter(registry: Registry) -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    for kind, accepted in ((int, (int,)), (float, (int, float)), (str, (str,)), (bool, (bool,))):
        converter.register_structure_hook(kind, _strict(kind, accepted))
    converter.register_structure_hook(Path, lambda value, _: Path(value))
    converter.register_structure_hook_func(lambda cls: cls == bool | str, _strict_either)

    def choose(data: Any, cls: type[Choice]) -> Choice:
        if isinstance(data, cls):
            return data
        if not isinstance(data, Mapping) or not isinstance(data.get("name"), str):
            raise ConfigError(
                f'expected a table with the name of the {cls.kind}, such as {{name = "..."}}, not {data!r}'
            )
        options = {key: value for key, value in data.items() if key != "name"}
        spec = registry.catalog(cls.kind)[data["name"]].spec
        return cls(data["name"], converter.structure(options, spec.config.load()))

    converter.register_structure_hook_func(lambda cls: isinstance(cls, type) and issubclass(cls, Choice), choose)
    return converter


def _strict_either(value: Any, _: Any) -> Any:
    if type(value) not in (bool, str):
        raise ConfigError(f"expected true, false or a word, not {value!r}")
    return value


def _strict(kind: type, accepted: tuple[type, ...]) -> Any:
    """A hook without silent conversions: "32" is not a number, true is not 1, and 3.7 is not an integer."""

    def check(value: Any, _: Any) -> Any:
        if type(value) not in accepted:
            raise ConfigError(f"expected {kind.__name__}, not {value!r}")
        return kind(value)

    return check
