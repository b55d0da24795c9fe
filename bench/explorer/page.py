"""How fast the page of a large dashboard is: from opening it to its index, sorting, searching, and a latent's page.

python bench/explorer/page.py [--latents 131072]

Milliseconds in headless Chromium (which must be there) on `file://`, of one page: what passes, the median and the least
of several tries, and the processor's time of the page's main thread, which other work on the machine does not change.
Results go to `bench/results/explorer.json` and `explorer.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from synthetic import write
from tqdm import tqdm

from chromium import PATH, Chromium
from crosscoders.explorer.data_folder import CHUNK
from crosscoders.explorer.shell import write_shell

RESULTS = Path(__file__).parents[1] / "results"
CHUNKS, TRIES = 12, 9
TIMED = """(async () => {
  const shown = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)));
  const until = async (there) => { while (!there()) await shown(); };
  // A latent from here on with as many examples as any has.
  const full = (from) => { let j = from; while (!(cc.value(j, "firings") >= 100)) j++; return j; };
  const open = (j) => until(() => document.querySelector(".latent")?.dataset.latent == j
    && document.querySelectorAll(".example .token").length > 200);
  const [fresh, near] = [full(%d), full(%d)];
  const begin = performance.now();
  %s
  await shown();
  return performance.now() - begin;
})()"""
STEPS = {
    "sort all by a column": ("#/table", "cc.replace('#/table?sort=-{column}')"),
    "search a word in all": ("#/table?sort=-max", "cc.replace('#/table?q={word}')"),
    "filter by a range and a class": (
        "#/table", "cc.replace('#/table?norm_share_chat=0.7..0.9&verdict=specific+to+chat%2Flayers.12')"),
    "scatter of all": (
        "#/table", "cc.go('#/scatter?y={column}'); await until(() => document.querySelector('.plot canvas'))"),
    "page of a latent, its file not yet read": ("#/table", "cc.go('#/latent/' + fresh); await open(fresh)"),
    "page of a latent, its file read": ("#/latent/0", "cc.go('#/latent/' + near); await open(near)"),
}  # fmt: skip
COLUMNS = ("density", "max", "norm_share_chat", "firings", "mean_active", "norm_share_base", "nu_error_base", "verdict",
           "top_site")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", type=int, default=131_072)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="a folder to keep for the next time, or made by the last")
    given = parser.parse_args()
    if PATH is None:
        sys.exit("there is no Chromium here; install one first")
    with tempfile.TemporaryDirectory() as name:
        folder = given.folder or Path(name)
        if not (folder / "data" / "facts.js").exists():
            chunks = write(folder, given.latents, given.tokens, top=20, per_range=5, shares=20, first=CHUNKS)
            for _ in tqdm(chunks, total=CHUNKS, unit="chunk"):
                pass
        write_shell(folder, title="Made-up latents")
        index = sum((folder / "data" / f"{one}.js").stat().st_size for one in ("facts", "columns", "search"))
        timed = measure(f"file://{folder}/index.html")
    record(given.latents, given.tokens, index / 1e6, timed)


def measure(url: str) -> dict[str, list[tuple[float, float]]]:
    """What passes and the processor's time, in milliseconds, of each try of each step."""
    timed: dict[str, list[tuple[float, float]]] = {"index ready": []}
    for _ in range(TRIES):
        with Chromium("about:blank#", ready="true") as tab:
            tab.call("Performance.enable", timeDomain="threadTicks")
            begin = processor(tab)
            tab.call("Page.navigate", url=url)
            tab.wait("document.documentElement?.dataset.ready")
            passed = tab.eval("Number(document.documentElement.dataset.ready)")
            timed["index ready"].append((passed, processor(tab) - begin))
    with Chromium(url, size=(1280, 860)) as tab:
        tab.call("Performance.enable", timeDomain="threadTicks")
        for step, (start, action) in STEPS.items():
            timed[step] = []
            for number in range(TRIES):
                tab.eval(f"cc.go({json.dumps(start)}), new Promise((done) => setTimeout(done, 300))")
                done = action.format(column=COLUMNS[number], word=f"number+{number}")
                at = ((number + 2) * CHUNK, 10 * number + 10)
                begin = processor(tab)
                passed = tab.eval(TIMED % (*at, done))
                timed[step].append((passed, processor(tab) - begin))
        assert tab.complaints() == [], tab.complaints()
    return timed


def processor(tab: Chromium) -> float:
    """Milliseconds that the main thread has worked."""
    metrics = {one["name"]: one["value"] for one in tab.call("Performance.getMetrics")["metrics"]}
    return 1000 * metrics["TaskDuration"]


def record(latents: int, tokens: int, megabytes: float, timed: dict[str, list[tuple[float, float]]]) -> None:
    rows = {}
    for step, tries in timed.items():
        passed, worked = zip(*tries, strict=True)
        rows[step] = {"median_ms": round(statistics.median(passed)), "least_ms": round(min(passed)),
                      "processor_ms": round(statistics.median(worked))}  # fmt: skip
    path = RESULTS / "explorer.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    load = round(os.getloadavg()[0], 1)
    kept["page"] = {"latents": latents, "tokens": tokens, "index_megabytes": round(megabytes, 1), "tries": TRIES,
                    "cores": os.cpu_count(), "load": load, "milliseconds": rows}  # fmt: skip
    path.write_text(json.dumps(kept, indent=1) + "\n")
    lines = [
        "# How fast the page of a dashboard is",
        "",
        f"Written by `python bench/explorer/page.py`: {latents:,} made-up latents, {tokens:,} tokens of text,",
        f"an index of {megabytes:.1f} MB; headless Chromium on `file://`, {os.cpu_count()} cores at a load of {load};",
        f"{TRIES} tries each. A page counts as shown when its frame has been drawn. The processor's time is the median",
        "of the page's main thread, which other work on the machine does not lengthen.",
        "",
        "| step | median ms | least ms | processor ms |",
        "|---|---|---|---|",
        *(f"| {step} | " + " | ".join(map(str, row.values())) + " |" for step, row in rows.items()),
    ]
    (RESULTS / "explorer.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines[6:]))


if __name__ == "__main__":
    main()
