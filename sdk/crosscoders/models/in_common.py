"""What models that are built for one purpose have in common, such as the weights of a base and its fine-tunes.

Models are built one by one and know nothing of each other. Within `built_together` adapters find a table where one
leaves what the next may use too; without it there is none, so that models built at different times never touch each
other.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_TABLE: ContextVar[MutableMapping[Hashable, Any] | None] = ContextVar("in_common", default=None)


@contextmanager
def built_together() -> Iterator[None]:
    """Within, adapters that are built may share what they load."""
    token = _TABLE.set({})
    try:
        yield
    finally:
        _TABLE.reset(token)


def in_common() -> MutableMapping[Hashable, Any] | None:
    """The table of the models that are being built together; None where one is built for itself."""
    return _TABLE.get()
