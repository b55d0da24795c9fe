"""What the product says of a real pair: the tiny base/chat pair, its intervals and its planted behaviours (R1-R3).

Coverage: the intervals of ν^ε and ν^r from parts of the text of 20,000 tokens each, against the value on ten times as
many tokens of other documents. The large part has an error of its own, by which plain coverage comes out about two
points too low; the prediction is about intervals that are wider by it.

Behaviours: latents of which more than half of the activation lies on the tokens of a planted answer carry it. Is the
verdict on them right? A linear readout of each model's activations, fitted on one half of the rows, is asked on the
other half where they fire: what base cannot tell is not there.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import attrs
import torch
from common import TRAINED, Clock, Scale, Verdict
from torch import Tensor

from crosscoders import Crosscoder, Document, Study, TokenSourceChoice, analyse
from crosscoders.demo.config import DemoConfig
from crosscoders.demo.run import run_config
from crosscoders.plugins.registry import get_registry
from crosscoders.training.runner import Runner
from crosscoders_plugins.analyses.latent_scaling import LatentScaling, LatentScalingConfig
from crosscoders_plugins.analyses.measured import measured
from crosscoders_plugins.token_sources.planted_chats import PERSONA, RARE_PHRASE, REFUSAL

PARTS, PART, WHOLE, STUDY = 4, 20_000, 200_000, 65_536
BEHAVIOURS = {"refusal": REFUSAL, "persona": PERSONA, "rare phrase": RARE_PHRASE}
FEWEST = 32
"""Firings in each half of the text, in a part or in the readout's."""


@attrs.frozen
class Some:
    """A few documents of a source."""

    items: list[Document]

    def documents(self, *, skip: int = 0) -> Iterator[Document]:
        yield from self.items[skip:]


def trained(seed: int) -> Crosscoder:
    """The demo's crosscoder."""
    with tempfile.TemporaryDirectory() as folder:
        output = (TRAINED[0] if TRAINED else Path(folder)) / f"pair-{seed}"
        if not (output / "crosscoder").exists():
            config = run_config(DemoConfig(output=output, seed=seed), registry=get_registry())
            Runner(config, registry=get_registry()).run(resume=True)
        return Crosscoder.from_pretrained(output / "crosscoder")


def run(seed: int, scale: Scale) -> dict[str, Any]:
    """Coverage, verdicts and readouts of one training."""
    clock, crosscoder = Clock(seed), trained(seed)
    study = Study.of(crosscoder, num_tokens=STUDY, trust_recipe=True)
    found = {"coverage": clock.show("coverage", coverage(study))}
    (report,) = analyse(crosscoder, ["latent_scaling"], study=study)
    found["verdicts"] = clock.show("verdicts", dict(Counter(report.data["verdict"])))
    tokens = {"name": "python_library", "seed": seed, "chat_share": 0.95, "rare_rate": 0.25}
    chats = Study.of(crosscoder, tokens=tokens, num_tokens=STUDY // 2, trust_recipe=True)
    found["behaviours"] = clock.show("behaviours", behaviours(chats, report.data["verdict"]))
    return found


def coverage(study: Study) -> dict[str, Any]:
    """Of the intervals from parts of the text, the share that hold the value on the large part."""
    tokens = study.crosscoder.info.recipe["tokens"]
    source = TokenSourceChoice.of(tokens["name"], **{k: v for k, v in tokens.items() if k != "name"}).build()
    # Of the split trained on too: what is asked is how far numbers differ between texts.
    reading = source.documents()
    parts = [_measured(study, _documents(reading, study, PART), PART) for _ in range(PARTS)]
    whole = _measured(study, _documents(reading, study, WHOLE), WHOLE)
    counts: dict[str, Any] = {"nominal": 0.9}
    for target in ("error", "reconstruction"):
        plain, hits, asked = 0, 0, 0
        for ratios, firings_F in parts:
            mine, large = getattr(ratios, target), getattr(whole[0], target)
            both = attrs.evolve(mine, error=(mine.error.square() + large.error.square()).sqrt())
            known = (firings_F >= 2 * FEWEST) & both.error.isfinite() & large.value.isfinite()
            plain += _held(mine, large.value, known)
            hits += _held(both, large.value, known)
            asked += int(known.sum())
        counts |= {target: hits / max(1, asked), f"{target}, plain": plain / max(1, asked), "intervals": asked}
    return counts


def _held(estimate: Any, value_F: Tensor, known_F: Tensor) -> int:
    low, high = estimate.interval(0.9).unbind(-1)
    return int(((low <= value_F) & (value_F <= high) & known_F).sum())


def _documents(reading: Iterator[Document], study: Study, num_tokens: int) -> list[Document]:
    found, have = [], 0
    while have < 1.1 * num_tokens:
        (document,) = islice(reading, 1)
        found.append(document)
        have += len(study.reading.tokenize(document).ids)
    return found


def _measured(study: Study, documents: list[Document], num_tokens: int) -> tuple[Any, Tensor]:
    config = attrs.evolve(study.activations, held_out_share=0.0)
    part = Study(study.crosscoder, study.adapters, Some(documents), activations=config, num_tokens=num_tokens,
                 reading=study.reading)  # fmt: skip
    sums, _, _ = measured(part, reference="chat/" + sites(study)[1].partition("/")[2], num_blocks=64)
    return LatentScaling(LatentScalingConfig()).ratios(sums, sites(study)[0]), sums.firings_F


def sites(study: Study) -> tuple[str, ...]:
    return study.crosscoder.written.names


def behaviours(study: Study, verdict: list[str]) -> dict[str, Any]:
    """Verdicts on the latents that carry each behaviour, and how well readouts tell where latents fire."""
    crosscoder, F = study.crosscoder, study.crosscoder.num_latents
    phrases = {name: study.reading.tokenize(_chat(phrase)).ids for name, phrase in BEHAVIOURS.items()}
    other = study.reading.tokenize(_chat("x")).ids
    phrases = {name: _between(ids, other) for name, ids in phrases.items()}
    rows, marks = [], {name: [] for name in BEHAVIOURS}
    for batch in study.batches():
        rows.append((crosscoder.normalised(batch.x_BX), batch.latents.dense()))
        for name, ids in phrases.items():
            marks[name].append(_marked(batch.tokens.ids.cpu(), ids)[batch.keep_BT.cpu()])
    x_BX, f_BF = (torch.cat(column).cpu() for column in zip(*rows, strict=True))
    half = len(x_BX) // 2
    fires_BF = f_BF > 0
    live = ((fires_BF[:half].sum(0) >= FEWEST) & (fires_BF[half:].sum(0) >= FEWEST)).nonzero().squeeze(1)
    auc = {name: torch.full((F,), torch.nan) for name in sites(study)}
    for name in sites(study):
        auc[name][live] = readout(x_BX[:, crosscoder.layout.slices[name]], fires_BF[:, live].float(), half)
    found: dict[str, Any] = {}
    for name, mark in marks.items():
        on_B = torch.cat(mark)
        share_F = f_BF[on_B].sum(0) / f_BF.sum(0).clamp_min(1e-9)
        chosen = [j for j in live.tolist() if share_F[j] > 0.5]
        found[name] = _group(chosen, verdict, auc) | {"tokens": int(on_B.sum())}
    for kind in ("shared", "rotated", "mostly", "specific"):
        found[f"all {kind}"] = _group([j for j in live.tolist() if verdict[j].startswith(kind)], verdict, auc)
    return found


def _group(latents: list[int], verdict: list[str], auc: dict[str, Tensor]) -> dict[str, Any]:
    return {
        "latents": len(latents),
        "verdicts": dict(Counter(verdict[j] for j in latents)),
        "auc": {site: float(values[latents].median()) if latents else None for site, values in auc.items()},
        "least auc": {site: float(values[latents].min()) if latents else None for site, values in auc.items()},
    }


def readout(x_BD: Tensor, y_BL: Tensor, half: int) -> Tensor:
    """Area under the curve of ridge readouts of each column of y, fitted on the first half, on the second, (L,)."""
    x_BD = torch.cat([x_BD, torch.ones(len(x_BD), 1)], dim=1).double()
    first, second = x_BD[:half], x_BD[half:]
    gram = first.T @ first
    weight = torch.linalg.solve(
        gram + 1e-3 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype), first.T @ y_BL[:half].double()
    )
    score, label = (second @ weight), y_BL[half:] > 0
    rank = score.argsort(dim=0).argsort(dim=0).double() + 1
    positive = label.sum(dim=0).double()
    return (((rank * label).sum(dim=0) - positive * (positive + 1) / 2) / (positive * (len(label) - positive))).float()


def _chat(answer: str) -> Any:
    from crosscoders import Chat, Message

    return Chat((Message("user", "q"), Message("assistant", answer)))


def _between(ids: Any, other: Any) -> list[int]:
    """What `ids` has between the beginning and the end that it shares with `other`."""
    ids, other = list(ids), list(other)
    begin = next(i for i, (a, b) in enumerate(zip(ids, other, strict=False)) if a != b)
    end = next(i for i, (a, b) in enumerate(zip(reversed(ids), reversed(other), strict=False)) if a != b)
    return ids[begin : len(ids) - end]


def _marked(ids_BT: Tensor, phrase: list[int]) -> Tensor:
    """Tokens of rows that belong to the phrase."""
    on_BT = torch.zeros_like(ids_BT, dtype=torch.bool)
    n = len(phrase)
    if ids_BT.shape[1] >= n:
        hits = (ids_BT.unfold(1, n, 1) == torch.tensor(phrase)).all(dim=2).nonzero()
        for row, start in hits.tolist():
            on_BT[row, start : start + n] = True
    return on_BT


def verdicts(found: dict[str, Any]) -> list[Verdict]:
    """Thresholds, stated before any run, against one training's numbers."""
    rows = []
    for target, name in (("error", "ν^ε"), ("reconstruction", "ν^r")):
        value = found["coverage"][target]
        rows.append(Verdict("R1", f"tiny pair: coverage of the 90 % intervals of {name}", "0.87-0.93", value,
                            0.87 <= value <= 0.93))  # fmt: skip
    told = found["behaviours"]
    for name in BEHAVIOURS:
        base = next(iter(told[name]["auc"].values()))
        rows.append(Verdict("R2", f"tiny pair: latents that carry the {name}", "report", told[name]["latents"], None))
        if base is not None:
            prediction = f"tiny pair: area under the curve of a readout from base, those of the {name}, median"
            rows.append(Verdict("R3", prediction, "report", base, None))
    return rows
