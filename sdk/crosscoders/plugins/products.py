"""Is what a plugin hands over what its record promised? Asked in one place, for all kinds of components."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from ..errors import PluginError, shown


def options_class(loaded: Any, what: str) -> type[Any]:
    """`loaded` if options can be read into it; `what` names the component in messages."""
    if not isinstance(loaded, type) or not attrs.has(loaded):
        raise PluginError(f"{what} cannot be used: its config is {shown(loaded)}, not an attrs class")
    return loaded


def check_product(made: Any, expected: Sequence[type[Any]], what: str) -> Any:
    """`made` if it is one of the `expected` classes, or has the methods of one of them that is a protocol."""
    missing = [_missing(made, cls) for cls in expected]
    if not expected or not all(missing):
        return made
    names = " or ".join(cls.__name__ for cls in expected)
    if isinstance(made, type):
        found = f"the class {made.__name__} itself"
    else:
        found = "None" if made is None else f"a {type(made).__module__}.{type(made).__name__}"
    lacks = f" (it lacks {', '.join(missing[0])})" if len(expected) == 1 and _is_protocol(expected[0]) else ""
    raise PluginError(f"{what} could not be built: a {names} should come back, not {found}{lacks}")


def _missing(made: Any, cls: type[Any]) -> list[str]:
    """What keeps `made` from being a `cls`: the methods that it lacks, or the class itself."""
    if isinstance(made, type):
        return [cls.__name__]
    if not _is_protocol(cls):
        return [] if isinstance(made, cls) else [cls.__name__]
    methods = {name: value for base in cls.__mro__ if _is_protocol(base) for name, value in vars(base).items()}
    return [
        name
        for name, value in methods.items()
        if not name.startswith("_") and callable(value) and not callable(getattr(made, name, None))
    ]


def _is_protocol(cls: type[Any]) -> bool:
    return bool(getattr(cls, "_is_protocol", False))
