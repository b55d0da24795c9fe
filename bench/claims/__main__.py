"""What must come out of planted worlds, stated before running and recorded with every seed.

    python bench/claims                       # everything, three seeds
    python bench/claims --only layers         # exact, diff, stability, truth, pair, layers or variants
    python bench/claims --seeds 3 4           # further seeds, kept beside those recorded
    python bench/claims --judge               # new verdicts on recorded numbers
    python bench/claims --quick               # one seed, fewer samples, nothing recorded
    python bench/claims --keep FOLDER         # keep trained crosscoders there, and take those that are there

Each prediction has a threshold; `bench/results/claims.json` keeps every number and `claims.md` the verdicts. Parts can
be run one by one, at the same time too, each with one thread (`OMP_NUM_THREADS=1`).
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from pathlib import Path
from typing import Any

import attrs
import torch

sys.path.insert(0, str(Path(__file__).parent))

import diff
import exact
import layers
import pair
import truth
import variants
from common import FULL, QUICK, TRAINED, Verdict

RESULTS = Path(__file__).parent.parent / "results"
VERDICTS = {
    "diff": diff.verdicts,
    "stability": diff.stability_verdicts,
    "truth": truth.verdicts,
    "pair": pair.verdicts,
    "layers": layers.verdicts,
    "variants": variants.verdicts,
}
PARTS = ("exact", "diff", "stability", "truth", "pair", "layers", "variants")


def run(part: str, seeds: list[int], scale: Any) -> dict[str, Any]:
    """Numbers and verdicts of one part, by seed; parts without seeds have the key 'all'."""
    started = time.monotonic()
    numbers: dict[str, Any] = {}
    if part == "exact":
        verdicts = {"all": exact.verdicts()}
    elif part == "stability":
        numbers["all"] = diff.stability(scale)
        verdicts = {"all": diff.stability_verdicts(numbers["all"])}
    else:
        module = {"diff": diff, "truth": truth, "pair": pair, "layers": layers, "variants": variants}[part]
        numbers = {str(seed): module.run(seed, scale) for seed in seeds}
        verdicts = {seed: module.verdicts(found) for seed, found in numbers.items()}
    return {
        "made_with": {
            "torch": torch.__version__,
            "python": platform.python_version(),
            "threads": torch.get_num_threads(),
        },
        "scale": attrs.asdict(scale),
        "seconds": round(time.monotonic() - started),
        "numbers": numbers,
        "verdicts": {seed: [attrs.asdict(v) for v in rows] for seed, rows in verdicts.items()},
    }


def table_of(record: dict[str, Any]) -> str:
    """The verdicts as a Markdown table, one row for each prediction."""
    lines = ["| | prediction | threshold | value per seed | verdict |", "|---|---|---|---|---|"]
    for part in (record[name] for name in PARTS if name in record):
        for rows in zip(*part["verdicts"].values(), strict=True):
            lines.append(_row([Verdict(**row) for row in rows]))
    return "\n".join(lines) + "\n"


def _row(rows: list[Verdict]) -> str:
    first, held = rows[0], [row.holds for row in rows]
    if first.threshold == "exact":
        values, verdict = f"{first.value:.0f} tests", "holds" if first.holds else "FAILS"
    else:
        values = ", ".join("–" if math.isnan(row.value) else f"{row.value:.3f}" for row in rows)
        verdict = "report" if None in held else "holds" if all(held) else f"fails on {held.count(False)} of {len(held)}"
    if "in the mean" in first.threshold and all(held):
        mean = sum(row.value for row in rows) / len(rows)
        verdict = f"holds (mean {mean:.3f})" if mean >= 0.15 else f"fails: mean {mean:.3f}"
    prediction = first.prediction if len({row.prediction for row in rows}) == 1 else _common(rows)
    return f"| {first.id} | {prediction} | {first.threshold} | {values} | {verdict} |"


def _common(rows: list[Verdict]) -> str:
    """One statement for rows that differ in a number in brackets."""
    start = rows[0].prediction.partition("(")
    inside = ", ".join(row.prediction.partition("(")[2].partition(")")[0] for row in rows)
    return f"{start[0]}({inside}){start[2].partition(')')[2]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--judge", action="store_true", help="only hold recorded numbers against the predictions again")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="of trained crosscoders")
    options = parser.parse_args()
    TRAINED.extend([options.keep] if options.keep else [])
    seeds, scale = ([0], QUICK) if options.quick else (options.seeds, FULL)
    if options.judge:
        judge()
        return
    record = {}
    for part in [options.only] if options.only else PARTS:
        record[part] = run(part, seeds, scale)
        if not options.quick:
            keep(part, record[part])
    print(table_of(record))


def judge() -> None:
    """Verdicts anew from the recorded numbers, after a prediction was added or reworded."""
    path = RESULTS / "claims.json"
    record = json.loads(path.read_text())
    for part, found in record.items():
        for seed, numbers in found["numbers"].items():
            found["verdicts"][seed] = [attrs.asdict(v) for v in VERDICTS[part](numbers)]
    path.write_text(json.dumps(record, indent=1) + "\n")
    path.with_suffix(".md").write_text(table_of(record))


def keep(part: str, found: dict[str, Any]) -> None:
    """Put one part's record among those that are there, its seeds beside others of the same scale."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "claims.json"
    record = json.loads(path.read_text()) if path.exists() else {}
    before = record.get(part)
    if before and before["scale"] == found["scale"]:
        for key in ("numbers", "verdicts"):
            found[key] = dict(sorted({**before[key], **found[key]}.items()))
    record = {name: value for name, value in record.items() if name in PARTS} | {part: found}
    path.write_text(json.dumps({name: record[name] for name in PARTS if name in record}, indent=1) + "\n")
    path.with_suffix(".md").write_text(table_of(record))


if __name__ == "__main__":
    main()
