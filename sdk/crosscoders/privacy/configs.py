"""Configs in files that may be shared, a cache's manifest or a run's state: without local paths, and still compared.

A path becomes a digest of what is there. A later config is the same if its paths hold the same, wherever that lies; and
on the account of whoever wrote the file also if they are the same paths, though what they name has grown or gone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..reading import checksum
from .home import keep, kept
from .local import published

KIND = "configs"


def recorded(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config`, plain data, as it may be written into a file that is shared; its paths are kept in the user's home."""
    plain, _ = published(config, {})
    if any(_pairs(config, plain)):
        keep(KIND, checksum(plain), config)
    return plain


def recorded_like(then: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` in the terms of `then`, which `recorded` made of an earlier one: equal to it if they are the same."""
    plain, _ = published(config, {}, known=records(then))
    return plain


def records(then: Mapping[str, Any]) -> dict[str, str]:
    """What stands in `then` for each path of the config that it was made of, if that was a config of this user."""
    return dict(_pairs(kept(KIND, checksum(then)), then))


def _pairs(before: Any, after: Any) -> Iterator[tuple[str, str]]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in before.keys() & after.keys():
            yield from _pairs(before[key], after[key])
    elif isinstance(before, list | tuple) and isinstance(after, list | tuple):
        for one, other in zip(before, after, strict=False):
            yield from _pairs(one, other)
    elif isinstance(before, str) and isinstance(after, str) and before != after:
        yield before, after
