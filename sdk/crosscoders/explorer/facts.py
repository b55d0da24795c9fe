"""What a dashboard says of the crosscoder as a whole: its sites and models, and cards of facts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ..checkpoints.description import number_at
from ..privacy.local import published
from .firings import Firings
from .records import rounded
from .results import Results

if TYPE_CHECKING:
    from ..analysis.study import Study

Card = dict[str, Any]
_LOSSES = {
    "cross-entropy": "ce_clean",
    "cross-entropy, spliced": "ce_spliced",
    "KL, spliced": "kl_spliced",
    "KL recovered, of mean-ablated": "1-kl_spliced/kl_mean",
}


def sites_of(study: Study) -> list[dict[str, Any]]:
    """Each site, in the order of the crosscoder's columns."""
    crosscoder = study.crosscoder
    return [
        {
            "name": site.name,
            "model": site.model,
            "point": site.point,
            "layer": _layer(site.point),
            "width": site.width,
            "read": site.name in crosscoder.wiring.read.names,
            "written": site.name in crosscoder.written.names,
        }
        for site in crosscoder.sites
    ]


def models_of(study: Study) -> list[dict[str, str]]:
    """Each model that has a site, by key and name; of a local folder only that it is one."""
    keys = dict.fromkeys(site.model for site in study.crosscoder.sites)
    _, told = published({}, {key: {"model": str(study.adapter(key).describe().get("model", ""))} for key in keys})
    return [{"key": key, "name": told[key]["model"]} for key in keys]


def cards_of(study: Study, firings: Firings, results: Results) -> list[Card]:
    """Cards on the crosscoder, its training, what it loses, the text read here, and analyses."""
    cards = [_crosscoder(study), _training(study), _fidelity(study), _text(study, firings), _analyses(results)]
    return [card for card in cards if card["rows"]]


def _crosscoder(study: Study) -> Card:
    crosscoder = study.crosscoder
    info = crosscoder.info
    rows: list[list[Any]] = [["Latents", crosscoder.num_latents]]
    if info is not None:
        rows.insert(0, ["Architecture", str(info.architecture.get("name", ""))])
        rows += [["Loss", str(info.loss["name"])]] if info.loss.get("name") else []
    rows += [
        ["Gate", crosscoder.gate.name],
        ["Sites", ", ".join(crosscoder.layout.names)],
        ["Latent groups", len(crosscoder.wiring.groups)],
        ["Parameters", crosscoder.num_parameters],
    ]
    if info is not None and info.origin:
        origin = info.origin
        rows.append(
            ["Imported from", " ".join(str(origin[key]) for key in ("repository", "format") if origin.get(key))]
        )
    return {"title": "Crosscoder", "rows": rows}


def _training(study: Study) -> Card:
    info = study.crosscoder.info
    if info is None:
        return {"title": "Training", "rows": []}
    rows: list[list[Any]] = []
    tokens = number_at(info.recipe, "training", "num_tokens")
    if tokens is not None:
        rows.append(["Tokens", int(tokens)])
    for site in study.crosscoder.written.names:
        explained = number_at(info.metrics, "explained_variance", site)
        if explained is not None:
            rows.append([f"Explained variance, {site}", rounded(explained)])
    for title, key in (("Active latents per token (L0)", "l0"), ("Silent latents, share", "silent_share")):
        value = number_at(info.metrics, key)
        if value is not None:
            rows.append([title, rounded(value)])
    return {"title": "Training, held-out text", "rows": rows}


def _fidelity(study: Study) -> Card:
    """What each model loses with the reconstruction in the place of its activations, at all its sites together."""
    info, rows = study.crosscoder.info, []
    for model, points in study.crosscoder.written.points_by_model.items() if info is not None else ():
        place = f"{model}/{points[0]}" if len(points) == 1 else f"{model} (all sites)"
        for title, key in _LOSSES.items():
            value = number_at(info.metrics, "spliced", place, key) if info is not None else None
            if value is not None:
                rows.append([f"{model}: {title}", rounded(value)])
    return {"title": "Fidelity, nats per token", "rows": rows}


def _text(study: Study, firings: Firings) -> Card:
    # The source itself, since the recipe may name another one than was read.
    path = getattr(getattr(study.source, "config", None), "path", "")
    told, _ = published({"tokens": {"path": path if isinstance(path, str) else ""}}, {})
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(study.source).__name__)
    silent = int((firings.count_F == 0).sum())
    rows = [
        ["Source", f"{words} {told['tokens']['path']}".strip()],
        ["Tokens", firings.num_tokens],
        ["Sequences", firings.sequences],
        ["Split", study.split.replace("_", "-")],
        ["Active latents per token (L0)", rounded(float(firings.count_F.sum()) / firings.num_tokens)],
        ["Silent latents", silent],
    ]
    return {"title": "Text read here", "rows": rows}


def _analyses(results: Results) -> Card:
    rows = [[title, summary] for title, summary in results.summaries if title and summary]
    return {"title": "Analyses", "rows": rows}


def _layer(point: str) -> int | None:
    match = re.search(r"layers\.(\d+)", point)
    return int(match[1]) if match else None
