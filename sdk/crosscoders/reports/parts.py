"""The parts of a report, as frozen data that the module `report` lays out."""

from __future__ import annotations

from typing import Any

from attrs import field, frozen

from ..converters import as_tuple

Cell = str | int | float | bool | None


def _rows(rows: Any) -> tuple[tuple[Cell, ...], ...]:
    return tuple(tuple(row) for row in rows)


@frozen(kw_only=True)
class Table:
    """A table with named columns. Numbers stay numbers, and are formatted only on the page."""

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
    """A few tokens around a place where a latent is active."""

    tokens: tuple[str, ...] = field(converter=as_tuple)
    activations: tuple[float, ...] = field(converter=as_tuple)


@frozen(kw_only=True)
class Example:
    """A latent, and the places where it is active, strongest first."""

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
