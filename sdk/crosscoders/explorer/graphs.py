"""Pages of attribution graphs that a dashboard links to."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

from ..errors import AnalysisError
from ..files import disk_errors, write_whole
from ..reading import read_text

PAGE = "graph.html"


@frozen
class GraphPage:
    """The page of one graph."""

    name: str
    title: str
    html: str

    def write(self, folder: Path) -> dict[str, str]:
        """Write it into the folder; what the facts say of it."""
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / f"{self.name}.html", self.html)
        return {"name": self.name, "title": self.title, "file": f"graphs/{self.name}.html"}


def graph_pages(folders: Sequence[str | Path]) -> list[GraphPage]:
    """The pages in folders that `save_graph` or `crosscoders attribute` wrote, of one prompt or several.

    `AnalysisError` where a folder has none.
    """
    found: list[GraphPage] = []
    for folder in map(Path, folders):
        pages = [folder / PAGE] if (folder / PAGE).is_file() else sorted(folder.glob(f"*/{PAGE}"))
        if not pages:
            raise AnalysisError(f"{folder} has no {PAGE}; give a folder that `crosscoders attribute` wrote")
        found += [_page(page, len(found) + number) for number, page in enumerate(pages, start=1)]
    return found


def _page(path: Path, number: int) -> GraphPage:
    text = read_text(path, AnalysisError)
    title = re.search(r"<title>(.*?)</title>", text, re.DOTALL)
    return GraphPage(f"graph-{number}", html.unescape(title[1]).strip() if title else f"Graph {number}", text)
