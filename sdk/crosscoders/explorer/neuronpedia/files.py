"""The three layouts that latents are written in by batches: Neuronpedia's own, its API's, and SAEDashboard's."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from attrs import frozen

from .checking import json_line
from .listing import NeuronpediaListing
from .rows import Described, Place, activation_rows, dashboard_feature, explanation_row, feature_row, uploaded
from .rules import MOST_FEATURES
from .sources import Source

Layout = Literal["neuronpedia", "api", "saedashboard"]


@frozen(kw_only=True, eq=False)
class Facts:
    """What a study says of all its latents."""

    layers: int
    """Of the model."""
    prompts: int
    """Sequences read."""
    prompt_tokens: int
    """Positions of a sequence."""


def write_heads(
    layout: Layout, folder: Path, source: Source, listing: NeuronpediaListing, facts: Facts, notes: str
) -> None:
    """What stands before a source's latents."""
    if layout == "neuronpedia":
        place = folder / "v1" / listing.model_id / source.name(listing.source_set, listing.suffix)
        place.mkdir(parents=True)
        rows = listing.heads(
            source, layers=facts.layers, prompts=facts.prompts, prompt_tokens=facts.prompt_tokens, notes=notes
        )
        for name, row in rows.items():
            (place / f"{name}.jsonl").write_bytes(json_line(row))
    elif layout == "api":
        for name, body in {
            "new-model": listing.new_model(facts.layers),
            "new-source-set": listing.new_source_set(),
        }.items():
            (folder / f"{name}.json").write_text(_json(body), encoding="utf-8")


def write_batch(
    layout: Layout,
    folder: Path,
    source: Source,
    latents: Sequence[Described],
    number: int,
    listing: NeuronpediaListing,
    facts: Facts,
) -> None:
    """One batch of a source's latents, the `number`th."""
    name = source.name(listing.source_set, listing.suffix)
    place = Place(
        model_id=listing.model_id,
        source_set=listing.source_set,
        source=name,
        creator_id=listing.creator_id,
        created=listing.created,
        explained_by=listing.explained_by,
        explaining_model=listing.explaining_model,
    )
    if layout == "neuronpedia":
        at = folder / "v1" / listing.model_id / name
        _write_lines(at / "features", number, (feature_row(place, latent) for latent in latents))
        _write_lines(at / "activations", number, (row for latent in latents for row in activation_rows(place, latent)))
        explained = (explanation_row(place, latent) for latent in latents if latent.explanation)
        _write_lines(at / "explanations", number, explained)
        return
    (folder / name).mkdir(exist_ok=True)
    if layout == "api":
        features = [uploaded(place, latent) for latent in latents]
        body: dict[str, Any] = {"modelId": listing.model_id, "source": name, "features": features}
        (folder / name / f"upload-batch-{number}.json").write_text(_json(body), encoding="utf-8")
        return
    batch = {
        "model_id": listing.model_id,
        "layer": source.layer,
        "sae_set": listing.source_set,
        "sae_id_suffix": listing.suffix,
        "features": [
            dashboard_feature(latent, prompts=facts.prompts, prompt_tokens=facts.prompt_tokens, dataset=listing.dataset)
            for latent in latents
        ],
    }
    (folder / name / f"batch-{number}.json").write_text(_json(batch), encoding="utf-8")


def batch_size(layout: Layout) -> int:
    """Latents of a batch."""
    return MOST_FEATURES if layout == "api" else 256


def takes(layout: Layout) -> Callable[[Described], bool]:
    """Which latents a layout has a place for: the API takes none without an example."""
    return lambda latent: layout != "api" or bool(latent.record.top)


def _write_lines(folder: Path, number: int, rows: Iterable[Mapping[str, Any]]) -> None:
    """A file of lines, in the next free number where there are any; what is equal is compressed equally."""
    lines = [json_line(row) for row in rows]
    if not lines:
        return
    folder.mkdir(exist_ok=True)
    path = folder / f"batch-{len(list(folder.iterdir()))}.jsonl.gz"
    path.write_bytes(gzip.compress(b"".join(lines), mtime=0))


def _json(body: Mapping[str, Any]) -> str:
    return json.dumps(body, ensure_ascii=False, allow_nan=False)
