"""Reports: what an analysis found, as tables, figures, token examples and JSON, on one self-contained page."""

from .parts import Context, Entries, Entry, Example, Examples, Figure, Note, Part, Table
from .report import Report, page_of, save_page

__all__ = [
    "Context",
    "Entries",
    "Entry",
    "Example",
    "Examples",
    "Figure",
    "Note",
    "Part",
    "Report",
    "Table",
    "page_of",
    "save_page",
]
