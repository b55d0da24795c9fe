"""Results of interventions, written into the page of a graph: beside what the graph says, what the model did."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import AnalysisError
from ..files import write_whole
from ..reading import read_text
from .graph_json import OWN
from .groups import GroupEffect
from .page_data import page_data, with_page_data


def write_effects(page: str | Path, effects: Sequence[GroupEffect]) -> None:
    """Write what changing groups did into a page that `save_graph` wrote, with the groups themselves.

    A group that the page has under that name, and an earlier result of the same change, make way. `AnalysisError`
    where the file is not such a page or shows other nodes.
    """
    page = Path(page)
    try:
        text = read_text(page, AnalysisError)
    except FileNotFoundError as error:
        raise AnalysisError(f"there is no page {page}") from error
    content = page_data(text, str(page))
    if content is None:
        raise AnalysisError(f"{page} is not the page of a graph")
    there = {node["node_id"] for node in content["nodes"]}
    own, parameters = content["metadata"][OWN], content["qParams"]
    for effect in effects:
        new = effect.data()
        ids = [name for name in new["ids"] if name in there]
        if not ids:
            raise AnalysisError(f"{page} shows none of the latents of the group '{effect.group.label}'")
        same = (new["label"], new["change"])
        kept = [one for one in own.get("measured", []) if (one["label"], one["change"]) != same]
        own["measured"] = [*kept, new]
        others = [one for one in parameters["supernodes"] if one[0] != new["label"]]
        parameters["supernodes"] = [*others, [new["label"], *ids]]
    write_whole(page, with_page_data(text, content))
