"""The parts of a report, as frozen data that the module `report` lays out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from ..converters import as_tuple
from ..errors import AnalysisError
from .frames import data_frame
from .svg import safe_svg

if TYPE_CHECKING:
    import pandas

Cell = str | int | float | bool | None


def _rows(rows: Any) -> tuple[tuple[Cell, ...], ...]:
    return tuple(tuple(row) for row in rows)


class _Shown:
    """Parts that stand by themselves: notebooks show them as pages do."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        from .report import Report, fragment_of

        return fragment_of(Report(title="", parts=[self]))


@frozen(kw_only=True, repr=False)
class Table(_Shown):
    """A table with named columns. Numbers stay numbers, and are formatted only on the page."""

    title: str
    columns: tuple[str, ...] = field(converter=as_tuple)
    rows: tuple[tuple[Cell, ...], ...] = field(converter=_rows)
    note: str = ""

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Cell]]:
        """The rows as mappings from column to value."""
        return (dict(zip(self.columns, row, strict=True)) for row in self.rows)

    def __repr__(self) -> str:
        return f"Table({self.title!r}, {len(self.rows)} rows of {', '.join(self.columns)})"

    def column(self, name: str) -> list[Cell]:
        """The values under one of the columns."""
        at = self.columns.index(name)
        return [row[at] for row in self.rows]

    def to_pandas(self) -> pandas.DataFrame:
        """The rows as a pandas frame, one column each (needs the extra `pandas`)."""
        return data_frame({name: self.column(name) for name in self.columns})

    def __attrs_post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"the table '{self.title}' has {len(self.columns)} columns and a row of {len(row)}")


@frozen(kw_only=True)
class Figure(_Shown):
    """A drawing, as SVG text.

    Whatever is not part of a drawing (scripts, links, style sheets, references to elsewhere) is left out of the SVG.
    """

    title: str
    svg: str = field(repr=False, converter=safe_svg)
    note: str = ""
    """A caption, under the drawing."""
    alt: str = ""
    """What the drawing shows, in words, for those who cannot see it; the title if nothing is said."""

    @classmethod
    def from_matplotlib(cls, figure: Any, *, title: str, alt: str, note: str = "", png: bool = False) -> Figure:
        """A part of a matplotlib figure, `alt` saying in words what it shows. The figure itself stays as it is.

        With `png`, the drawing is an image of pixels, which is smaller where there are thousands of points.
        """
        if not hasattr(figure, "savefig"):
            raise AnalysisError(f"a {type(figure).__name__} is not a matplotlib figure; pass axes.figure, for example")
        from .figures import Drawing

        drawing = Drawing(figure)
        return cls(title=title, svg=drawing.image() if png else drawing.svg(), note=note, alt=alt)


@frozen(kw_only=True)
class Note(_Shown):
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


@frozen(kw_only=True, repr=False)
class Examples(_Shown):
    """Top activating examples of several latents."""

    title: str
    entries: tuple[Example, ...] = field(converter=as_tuple)
    note: str = ""

    def __len__(self) -> int:
        return len(self.entries)

    def __repr__(self) -> str:
        return f"Examples({self.title!r}, {', '.join(entry.heading for entry in self.entries)})"

    def to_pandas(self) -> pandas.DataFrame:
        """One row for each context: `heading`, `rank` from 0, `peak` activation, `token` of the peak, `text`."""
        rows = [
            (entry.heading, rank, max(context.activations), context)
            for entry in self.entries
            for rank, context in enumerate(entry.contexts)
        ]
        return data_frame(
            {
                "heading": [heading for heading, *_ in rows],
                "rank": [rank for _, rank, *_ in rows],
                "peak": [peak for *_, peak, _ in rows],
                "token": [context.tokens[context.activations.index(peak)] for *_, peak, context in rows],
                "text": ["".join(context.tokens) for *_, context in rows],
            }
        )


@frozen(kw_only=True)
class Entry:
    """Something that a line says all about, with what is behind it."""

    heading: str
    group: str
    """By which entries are filtered."""
    line: str
    facts: Mapping[str, Cell] = field(factory=dict)
    """Numbers behind the line, by name."""
    contexts: tuple[Context, ...] = field(default=(), converter=as_tuple)


@frozen(kw_only=True, repr=False)
class Entries(_Shown):
    """Entries in groups, one line each; the page shows all or one group, and more of an entry on a click."""

    title: str
    entries: tuple[Entry, ...] = field(converter=as_tuple)
    note: str = ""

    @property
    def groups(self) -> dict[str, int]:
        """The groups in their order, and how many entries each has."""
        return {
            group: sum(entry.group == group for entry in self.entries)
            for group in dict.fromkeys(entry.group for entry in self.entries)
        }

    def __len__(self) -> int:
        return len(self.entries)

    def __repr__(self) -> str:
        return f"Entries({self.title!r}, " + ", ".join(f"{count} {group}" for group, count in self.groups.items()) + ")"

    def to_pandas(self) -> pandas.DataFrame:
        """One row for each entry: `heading`, `group`, `line`, and all facts."""
        names = dict.fromkeys(name for entry in self.entries for name in entry.facts)
        columns: dict[str, list[Any]] = {
            name: [getattr(entry, name) for entry in self.entries] for name in ("heading", "group", "line")
        }
        return data_frame(columns | {name: [entry.facts.get(name) for entry in self.entries] for name in names})


Part = Table | Figure | Note | Examples | Entries
