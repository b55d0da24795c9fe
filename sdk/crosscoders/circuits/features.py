"""What the latents of a graph respond to and promote, as the JSON files that graph viewers look up."""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from ..analysis.examples import activity
from ..analysis.study import Study
from ..errors import AnalysisError, listed
from ..files import disk_errors, write_whole
from ..reading import read_json
from .graph import AttributionGraph
from .graph_rules import cantor, feature_problems
from .latent_sets import LatentSet
from .replacement import ReplacementModel


@torch.no_grad()
def write_features(
    model: ReplacementModel,
    graph: AttributionGraph,
    studies: Study | Sequence[Study],
    folder: str | Path,
    *,
    examples: int = 12,
    logits: int = 10,
) -> list[Path]:
    """Write one file for each latent of `graph`, named by the number that graph files give it.

    `studies` are of the model's crosscoders, one each, over the text that examples come from. A file has the `examples`
    contexts where the latent is most active, and the `logits` tokens that its row at the last point written promotes
    and suppresses most. `AnalysisError` where a crosscoder has no study.
    """
    by_crosscoder = {id(study.crosscoder): study for study in ([studies] if isinstance(studies, Study) else studies)}
    folder, written = Path(folder), list[Path]()
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    wanted: dict[int, list[tuple[int, int, int]]] = {}
    for layer, index in sorted({(layer, index) for layer, _, index in graph.latent_n3.tolist()}):
        found = _set_of(model, layer, index)
        if id(found.crosscoder) not in by_crosscoder:
            raise AnalysisError(f"latents that read layer {layer} are of a crosscoder without a study")
        latent = found.columns.start + index - found.first
        wanted.setdefault(id(found.crosscoder), []).append((layer, index, latent))
    for key, latents in wanted.items():
        for layer, index, content in _contents(by_crosscoder[key], latents, examples, logits):
            feature = cantor(layer, index)
            problems = feature_problems(content, feature)
            assert not problems, problems
            path = folder / f"{feature}.json"
            write_whole(path, json.dumps(content, ensure_ascii=False, allow_nan=False))
            written.append(path)
    return written


def read_features(folder: str | Path, wanted: Container[Any], *, examples: int = 6) -> dict[str, dict[str, Any]]:
    """What `write_features` wrote of the wanted latents, by their number in graph files; the first `examples` of each
    whose text differs.

    `AnalysisError` names a file that is not one of these.
    """
    found = {}
    for path in sorted(Path(folder).glob("*.json")):
        if path.stem.isdigit() and int(path.stem) in wanted:
            content = read_json(path, AnalysisError)
            problems = feature_problems(content, int(path.stem))
            if problems:
                raise AnalysisError(f"{path} does not describe a latent: {listed(problems)}")
            shown: dict[tuple[str, ...], list[Any]] = {}
            for each in (one for quantile in content["examples_quantiles"] for one in quantile["examples"]):
                shown.setdefault(tuple(each["tokens"]), [each["tokens"], each["tokens_acts_list"]])
            found[path.stem] = {
                "examples": list(shown.values())[:examples],
                "promotes": content.get("top_logits", []),
                "suppresses": content.get("bottom_logits", []),
            }
    return found


def _set_of(model: ReplacementModel, layer: int, index: int) -> LatentSet:
    for found in model.sets:
        if found.layer == layer and found.first <= index < found.first + found.size:
            return found
    raise AnalysisError(f"the model has no latent {index} that reads layer {layer}, which the graph has")


def _contents(
    study: Study, latents: Sequence[tuple[int, int, int]], examples: int, logits: int
) -> Iterator[tuple[int, int, dict[str, Any]]]:
    numbers = [latent for _, _, latent in latents]
    contexts = activity(study, numbers, per_latent=examples).contexts
    ranked: dict[tuple[int, str], dict[str, list[str]]] = {}
    for row in study.logit_effects(numbers, n=logits):
        kinds = ranked.setdefault((int(str(row["latent"])), str(row["kind"])), {})
        kinds.setdefault(str(row["site"]), []).append(str(row["token"]))
    for layer, index, latent in latents:
        shown = [
            {"tokens": list(context.tokens), "tokens_acts_list": list(context.activations)}
            for context in contexts[latent]
        ]
        content: dict[str, Any] = {
            "index": index,
            "examples_quantiles": [{"quantile_name": "Top activations", "examples": shown}],
        }
        for kind, name in (("promoted", "top_logits"), ("suppressed", "bottom_logits")):
            by_site = ranked.get((latent, kind), {})
            if by_site:
                content[name] = list(by_site.values())[-1]  # the last point written
        yield layer, index, content
