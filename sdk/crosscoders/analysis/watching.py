"""Progress bars of a study, for who waits at a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm.auto import tqdm

T = TypeVar("T")


def watched(
    items: Iterable[T],
    what: str,
    *,
    total: int | None,
    quiet: bool,
    unit: str = "it",
    size: Callable[[T], int] = lambda _: 1,
) -> Iterator[T]:
    """The same items; beside them a bar that grows by the `size` of each once it is done with, and then disappears."""
    with tqdm(total=total, unit=unit, unit_scale=True, desc=what, disable=quiet, leave=False) as bar:
        for item in items:
            yield item
            bar.update(size(item))
