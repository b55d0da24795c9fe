"""Reading configs: frozen attrs classes from TOML or mappings. Unknown keys are errors, and errors name the path.

A table `{name = "batchtopk", k = 32}` chooses a component; the registry knows the class of its options.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import GenericAlias
from typing import Any, ClassVar, Self, TypeVar, get_args, get_origin

import attrs
import cattrs
from attrs import field, frozen
from cattrs.gen import make_dict_structure_fn
from cattrs.v import format_exception

from ..errors import ConfigError, PluginError, listed, nearest, shown
from .kinds import component_command
from .offers import Offer
from .registry import Registry, get_registry

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
        """Build the component; a `PluginError` names the plugin if that fails or returns anything else."""
        return self.offer(registry).build(self.options, *arguments)


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


class GateChoice(Choice):
    """A gate and its options."""

    kind = "gate"


class ObserverChoice(Choice):
    """A run observer and its options."""

    kind = "observer"


class MetricChoice(Choice):
    """A metric and its options."""

    kind = "metric"


def structure(data: Any, cls: type[T], *, registry: Registry | None = None, where: str = "", see: str = "") -> T:
    """Make an instance of `cls` from plain data; `ConfigError` lists the problems with their paths, one per line.

    It also names the commands that list the options of the components at fault, or `see` where it is of none.
    """
    at_fault: list[str] = []
    try:
        return _converter(registry or get_registry(), at_fault).structure(data, cls)
    except cattrs.BaseValidationError as error:
        problems = cattrs.transform_error(error, format_exception=_explain)
    except RecursionError as error:
        raise ConfigError(f"a config is nested too deeply{f' (in {where})' if where else ''}") from error
    except (ConfigError, PluginError, ValueError, TypeError, AttributeError, OverflowError) as error:
        problems = [_explain(error, cls)]
    text = listed(problems, "\n  ")
    commands = listed([f"`{command}`" for command in dict.fromkeys(at_fault or filter(None, [see]))], ", ")
    if len(problems) > 1:
        more = f"\n  see {commands}" if commands else ""
        raise ConfigError(f"{len(problems)} problems{f' in {where}' if where else ''}:\n  {text}{more}")
    raise ConfigError(text + (f" (in {where})" if where else "") + (f"; see {commands}" if commands else ""))


def unstructure(config: Any) -> Any:
    """Convert a config to plain JSON data, which `structure` reads back."""
    return _plain(config)


def set_value(data: dict[str, Any], key: str, value: Any) -> None:
    """Set the value of a dotted key in plain data, making tables on the way; `structure` then knows which there are."""
    *tables, last = key.split(".")
    for part in tables:
        data = data.setdefault(part, {})
        if not isinstance(data, dict):
            raise ConfigError(f"'{key}' names no value: '{part}' is not a table")
    data[last] = value


def parts_of(config: Any) -> Iterator[Any]:
    """A config and all configs and choices within it."""
    if attrs.has(type(config)):
        yield config
        for each in attrs.fields(type(config)):
            yield from parts_of(getattr(config, each.name))
    elif isinstance(config, Mapping):
        for item in config.values():
            yield from parts_of(item)
    elif isinstance(config, list | tuple):
        for item in config:
            yield from parts_of(item)


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
    """One problem in words; cattrs adds where in the data it is."""
    if isinstance(error, cattrs.errors.ForbiddenExtraKeysError):
        options = [a.name for a in attrs.fields(error.cl)] if attrs.has(error.cl) else []
        unknown = sorted(map(str, error.extra_fields))
        guess = nearest(unknown[0], options)
        there = f"there are {', '.join(options)}" if options else "it has no options"
        return f"unknown option {listed(unknown, ', ')}{guess + ' ' if guess else '; '}{there}"
    # Validators and plugin look-ups already say what is wrong; cattrs' own wording would hide it.
    if isinstance(error, PluginError | ConfigError | ValueError | TypeError):
        return str(error.args[0]) if error.args else str(error)
    return format_exception(error, kind)


def _converter(registry: Registry, at_fault: list[str]) -> cattrs.Converter:
    """A converter that adds to `at_fault` the commands that list the options which could not be read."""
    converter = cattrs.Converter(forbid_extra_keys=True)
    for kind, accepted in ((int, (int,)), (float, (int, float)), (str, (str,)), (bool, (bool,))):
        converter.register_structure_hook(kind, _strict(kind, accepted))
    converter.register_structure_hook(Path, _path)
    converter.register_structure_hook_func(lambda cls: cls == bool | str, _strict_either)

    def choose(data: Any, cls: type[Choice]) -> Choice:
        if isinstance(data, cls):
            return data
        if not isinstance(data, Mapping) or not isinstance(data.get("name"), str):
            raise ConfigError(
                f'expected a table with the name of the {cls.kind}, such as {{name = "..."}}, not {shown(data)}'
            )
        options = {key: value for key, value in data.items() if key != "name"}
        config = registry.catalog(cls.kind)[data["name"]].config_class()
        before = len(at_fault)
        try:
            return cls(data["name"], converter.structure(options, config))
        except Exception:
            if len(at_fault) == before:  # otherwise it is a component within that is at fault
                at_fault.append(component_command(cls.kind, data["name"]))
            raise

    def table(cls: Any) -> Any:
        plain = make_dict_structure_fn(cls, converter, _cattrs_forbid_extra_keys=True)

        def check(data: Any, cls: Any) -> Any:
            if not isinstance(data, Mapping):
                raise ConfigError(f"expected a table, not {shown(data)}")
            return plain({str(key): value for key, value in data.items()}, cls)

        return check

    def sequence(data: Any, cls: Any) -> Any:
        # cattrs would take a string apart into letters, and a table into its keys.
        if not isinstance(data, list | tuple):
            raise ConfigError(f"expected a list, not {shown(data)}")
        kinds = get_args(cls)
        if kinds[-1:] == (...,):
            return tuple(converter.structure(list(data), list[kinds[0]]))  # type: ignore[valid-type]
        if len(data) != len(kinds):
            raise ConfigError(f"expected {len(kinds)} values, not {shown(data)}")
        return tuple(converter.structure(value, kind) for value, kind in zip(data, kinds, strict=True))

    # Of hooks that fit, the one registered last is taken.
    converter.register_structure_hook_factory(attrs.has, table)
    converter.register_structure_hook_func(_is_tuple, sequence)
    converter.register_structure_hook_func(lambda cls: isinstance(cls, type) and issubclass(cls, Choice), choose)
    return converter


def _is_tuple(cls: Any) -> bool:
    return isinstance(cls, GenericAlias) and get_origin(cls) is tuple


def _path(value: Any, _: Any) -> Path:
    if not isinstance(value, str | Path):
        raise ConfigError(f"expected a path, not {shown(value)}")
    if "\0" in str(value):
        raise ConfigError(f"no path can have a null character, as {shown(str(value))} has")
    return Path(value)


def _strict_either(value: Any, _: Any) -> Any:
    if type(value) not in (bool, str):
        raise ConfigError(f"expected true, false or a word, not {value!r}")
    return value


def _strict(kind: type, accepted: tuple[type, ...]) -> Any:
    """A hook without silent conversions: "32" is not a number, true is not 1, and 3.7 is not an integer."""

    def check(value: Any, _: Any) -> Any:
        if type(value) not in accepted:
            raise ConfigError(f"expected {kind.__name__}, not {shown(value)}")
        try:
            made = kind(value)
        except OverflowError as error:
            raise ConfigError(f"expected {kind.__name__}, not {shown(value)}") from error
        if isinstance(made, float) and math.isnan(made):
            raise ConfigError("expected a number, not nan")
        return made

    return check
