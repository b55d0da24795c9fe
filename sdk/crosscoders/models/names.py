"""Sites by the names that their models' adapters give them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def canonical_site(name: str, models: Mapping[str, Any]) -> str:
    """`model/point` with the point's own name, where another library's was given.

    `models` has adapters, or options of adapters, by key; those that know other names for their points say so by a
    function `canonical_point(name) -> str`.
    """
    key, slash, point = name.partition("/")
    canonical = getattr(models.get(key), "canonical_point", None)
    return f"{key}/{canonical(point)}" if slash and callable(canonical) else name
