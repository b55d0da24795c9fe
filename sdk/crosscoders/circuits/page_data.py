"""The data in the page of a graph, which no policy hashes: read, and put back changed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..errors import AnalysisError
from ..pages import script_json
from ..reading import parse_json
from .graph_json import OWN

_DATA = re.compile(r'(<script type="application/json" id="data">)(.*?)(</script>)', re.DOTALL)


def page_data(page: str, name: str) -> dict[str, Any] | None:
    """The JSON data in the text of a page that `save_graph` wrote; None where it is no such page.

    `AnalysisError` says by `name` what is wrong with the data of one.
    """
    found = _DATA.search(page)
    content = parse_json(found[2], name, AnalysisError) if found else None
    if not (isinstance(content, dict) and isinstance(content.get("metadata"), dict) and OWN in content["metadata"]):
        return None
    return content


def with_page_data(page: str, content: Mapping[str, Any]) -> str:
    """The page with other data."""
    text = script_json(content)
    return _DATA.sub(lambda found: found[1] + text + found[3], page, count=1)
