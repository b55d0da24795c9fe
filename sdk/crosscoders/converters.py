"""Converters for the fields of frozen classes."""

from __future__ import annotations

from typing import Any


def as_tuple(items: Any) -> tuple[Any, ...]:
    """Any iterable as a tuple; the builtin does the same, but type checkers cannot infer through it."""
    return tuple(items)
