"""What options a component or a config has: names, types, ranges, defaults, and the docstrings of their fields.

The command `components`, the written-out config of `init` and the tables of the documentation all come from here.
"""

from __future__ import annotations

import ast
import inspect
import json
import math
import re
import textwrap
import types
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import attrs
from attrs import frozen

from .choices import Choice, unstructure

WORDS: Mapping[Any, str] = {int: "integer", float: "number", str: "text", bool: "true or false", Path: "path"}
SIGNS = {">=": "≥", "<=": "≤", ">": ">", "<": "<"}


@frozen(kw_only=True)
class Option:
    """One option of a config class, in words."""

    name: str
    """Its key; that of an option in a table within is dotted, such as `sampling.temperature`."""
    kind: str
    """Type and range, such as `integer ≥ 1`; `[text, …]` is a list, `{name = text, …}` a table."""
    chooses: str
    """The kind of component that it chooses, if it does."""
    required: bool
    default: Any
    """As plain data; None where there is none."""
    meaning: str
    """The docstring of the field, on one line."""

    @property
    def default_text(self) -> str:
        """The default as TOML has it; `required`, or `unset` where TOML has no word for it."""
        if self.required:
            return "required"
        return "unset" if self.default is None else toml(self.default)

    @property
    def first_sentence(self) -> str:
        """The meaning, shortened."""
        return re.split(r"\. (?=[A-Z`])", self.meaning)[0].rstrip(".")


def options_of(config: type[Any], prefix: str = "") -> list[Option]:
    """The options of an attrs class, those of tables within it after the rest."""
    attrs.resolve_types(config)
    meanings = field_docstrings(config)
    found, tables = [], []
    for field in attrs.fields(config):
        if not field.init:
            continue
        name = f"{prefix}{field.name}"
        if attrs.has(field.type) and not _is_choice(field.type):
            tables += options_of(field.type, f"{name}.")
            continue
        required = field.default is attrs.NOTHING
        found.append(
            Option(
                name=name,
                kind=_kind(field.type, field.validator),
                chooses=_chosen(field.type),
                required=required,
                default=None if required else unstructure(_default(field.default)),
                meaning=meanings.get(field.name, ""),
            )
        )
    return found + tables


def field_docstrings(config: type[Any]) -> dict[str, str]:
    """The strings below the fields of a class and of its bases; empty where the source is not to be had."""
    found: dict[str, str] = {}
    for cls in reversed(config.__mro__):
        try:
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
        except (OSError, TypeError, SyntaxError, ValueError):
            continue
        body = getattr(tree, "body", [])
        for field, after in pairwise(body):
            if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
                continue
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                found[field.target.id] = " ".join(str(after.value.value).split())
    return found


def toml(value: Any) -> str:
    """Plain data as TOML writes it on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(str(key))} = {toml(item)}" for key, item in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, int):
        return str(value)
    # TOML's strings know JSON's escapes; the one control character that JSON leaves as it is has to be written out.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", r"\u007f")


def _key(key: str) -> str:
    plain = key and all(letter.isascii() and (letter.isalnum() or letter in "_-") for letter in key)
    return key if plain else toml(key)


def _default(default: Any) -> Any:
    """What a factory makes; one that needs the instance says nothing here."""
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]  # a class at run time
        return None if default.takes_self else default.factory()
    return default


def _kind(annotation: Any, validator: Any) -> str:
    values, bounds = _values(validator), _bounds(validator)
    if values:
        return " or ".join(toml(value) for value in values)
    return " ".join([_word(annotation), *([", ".join(bounds)] if bounds else [])])


def _word(annotation: Any) -> str:
    if annotation in WORDS:
        return WORDS[annotation]
    if _is_choice(annotation):
        return f"{'an' if annotation.kind[0] in 'aeiou' else 'a'} {annotation.kind}"
    if attrs.has(annotation):
        return f"{{{', '.join(field.name for field in attrs.fields(annotation))}}}"
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(_word(each) for each in arguments if each is not type(None))
    if origin in (tuple, list) and arguments:
        many = len(arguments) == 1 or arguments[-1] is ...
        return f"[{_word(arguments[0])}, …]" if many else f"[{', '.join(map(_word, arguments))}]"
    if origin is not None and issubclass(origin, Mapping):
        return f"{{name = {_word(arguments[1])}, …}}"
    return "anything"


def _is_choice(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Choice)


def _chosen(annotation: Any) -> str:
    """The kind of component that a field chooses, or each entry of a field."""
    if _is_choice(annotation):
        kind: str = annotation.kind
        return kind
    return next((found for each in get_args(annotation) if (found := _chosen(each))), "")


def _parts(validator: Any) -> list[Any]:
    """The simple validators that one is made of. Their classes are private to attrs, their attributes are not."""
    inner = getattr(validator, "_validators", None)
    if inner is not None:
        return [part for each in inner for part in _parts(each)]
    optional = type(validator).__name__ == "_OptionalValidator"
    return _parts(validator.validator) if optional else [validator]


def _values(validator: Any) -> list[Any]:
    return [value for part in _parts(validator) for value in getattr(part, "options", ())]


def _bounds(validator: Any) -> list[str]:
    return [
        f"{SIGNS[part.compare_op]} {part.bound:g}"
        for part in _parts(validator)
        if getattr(part, "compare_op", None) in SIGNS
    ]
