"""Pages of attribution graphs that a dashboard links to, and that link back to its latents."""

from __future__ import annotations

import html
import re
from collections.abc import Container, Sequence
from pathlib import Path

from attrs import evolve, frozen

from ..circuits.graph_json import OWN
from ..circuits.graph_rules import check_graph_json
from ..circuits.numbering import numbers_of
from ..circuits.page_data import page_data, with_page_data
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

    def linked(self, fingerprint: str, shown: Container[int]) -> GraphPage:
        """The page with links to a dashboard that it lies in, and to those of its latents that are `shown` there.

        Latents are linked where they are of the crosscoder with that fingerprint. A page that is not a graph's stays as
        it is.
        """
        content = page_data(self.html, self.title)
        if content is None:
            return self
        check_graph_json(content, to_read=True)
        numbers = {key: number for key, number in numbers_of(content, fingerprint).items() if number in shown}
        content["metadata"][OWN]["dashboard"] = {"latents": numbers}
        return evolve(self, html=with_page_data(self.html, content))

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
