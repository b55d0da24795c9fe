"""The parts of a report. All are frozen data; `render` lays them out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from attrs import field, frozen

from ..attributes import as_tuple

Cell = str | int | float | bool | None


def _rows(rows: Any) -> tuple[tuple[Cell, ...], ...]:
    return tuple(tuple(row) for row in rows)


@frozen(kw_only=True)
class Table:
    """Rows under named columns; numbers stay numbers."""

    title: str
    columns: tuple[str, ...] = field(converter=as_tuple)
    rows: tuple[tuple[Cell, ...], ...] = field(converter=_rows)
    note: str = ""

    def __attrs_post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"the table '{self.title}' has {len(self.columns)} columns and a row of {len(row)}")


@frozen(kw_only=True)
class Figure:
    """A drawing, as SVG text."""

    title: str
    svg: str = field(repr=False)
    note: str = ""


@frozen(kw_only=True)
class Note:
    """A paragraph."""

    text: str
    title: str = ""


@frozen(kw_only=True)
class Context:
    """Some tokens around a place where a latent is active."""

    tokens: tuple[str, ...] = field(converter=as_tuple)
    activations: tuple[float, ...] = field(converter=as_tuple)


@frozen(kw_only=True)
class Example:
    """A latent and where it is active, strongest first."""

    heading: str
    note: str = ""
    contexts: tuple[Context, ...] = field(default=(), converter=as_tuple)


@frozen(kw_only=True)
class Examples:
    """Top activating examples of several latents."""

    title: str
    entries: tuple[Example, ...] = field(converter=as_tuple)
    note: str = ""


Part = Table | Figure | Note | Examples


@frozen(kw_only=True)
class Report:
    """What an analysis found."""

    title: str
    parts: Sequence[Part] = field(converter=as_tuple)
    data: Mapping[str, Any] = field(factory=dict)
    """Everything measured, as JSON data, for programs."""
    summary: str = ""
    """One or two sentences: what was found."""

    def to_json(self) -> dict[str, Any]:
        """Plain data, figures left out; numbers that are not finite become null."""
        parts = [
            {"kind": type(part).__name__.lower(), **attrs.asdict(part)}
            for part in self.parts
            if not isinstance(part, Figure)
        ]
        found: dict[str, Any] = _finite(
            {"title": self.title, "summary": self.summary, "data": dict(self.data), "parts": parts}
        )
        return found

    def to_html(self) -> str:
        """A whole page by itself."""
        from .render import page_of

        return page_of([self], title=self.title)

    def save(self, folder: str | Path) -> Path:
        """Write `report.html` and `report.json` into `folder`; returns the page's path."""
        from .render import save_page

        return save_page([self], Path(folder), title=self.title)

    def _repr_html_(self) -> str:
        """How notebooks show a report."""
        from .render import fragment_of

        return fragment_of(self)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
