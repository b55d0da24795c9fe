"""A small dashboard with known content, written byte by byte, to try its page on."""

import base64
import copy

import numpy as np

from crosscoders.explorer.shell import write_shell
from crosscoders.pages import pack_script, put_script

EVIL = ("</script><script>window.evil=1</script>", '<img src=x onerror="window.evil=1">', "<!--", "\u2028", "\u202ertl",
        "\x00\x1b[31m", "\ud800", "\"'`&amp;", "javascript:evil()", "")  # fmt: skip
WORDS = [f" w{i}" for i in range(40)]
TEXTS = [*EVIL, *WORDS]
SITES = [("base/layers.1", "base"), ("chat/layers.1", "chat")]
VERDICTS = ["shared", "specific to chat/layers.1", "a, b & <c>"]
LABELS = {12: "the colour teal", 47: "teal and other colours", 30: EVIL[0]}
ROWS = [[(7 * min(s, 4) + i) % len(TEXTS) for i in range(30)] for s in range(8)]
"""The last four are the same text."""


def numbers(count, seed=0):
    """Columns by name: density with zeros, share with unknown ones, and classes with 255 for unknown."""
    draw = np.random.default_rng(seed)
    density = draw.lognormal(-5, 1, count).clip(0, 0.9)
    density[::10] = 0
    share = draw.random(count)
    share[5:6] = np.nan
    verdict = draw.integers(0, 3, count)
    verdict[6:7] = 255
    return {"density": density.astype("<f4"), "tuned_share": share.astype("<f4"), "verdict": verdict.astype("u1")}


def example(sequence, largest, shares=False):
    values = np.zeros(12)
    values[4], values[5] = 1.0, 0.4
    packed = base64.b64encode((values * 255).astype("u1").tobytes()).decode()
    one = [sequence, 3, 15, 4, largest, packed]
    if shares:
        for_model = base64.b64encode((values * 127).astype("i1").tobytes()).decode()
        against = base64.b64encode((values * -127).astype("i1").tobytes()).decode()
        one.append({"base": [against, 0.5], "chat": [for_model, 2.0]})
    return one


def latent(j, count, silent):
    top = [] if silent else [example(s, 4.0 - s / 2, shares=s < 2) for s in range(6)]
    parts = (
        []
        if silent
        else [{"low": i, "high": i + 1, "share": 0.25, "examples": [example(i, i + 0.5)]} for i in range(4)]
    )
    return {
        "j": j,
        "hist": {"low": 0, "high": 4, "counts": [0] * 40 if silent else [40 - i for i in range(40)]},
        "top": top,
        "ranges": parts,
        "logits": [{"site": site, "promoted": [[i, 2.0 - i / 10] for i in range(10)], "suppressed": [[20, -1.0]]}
                   for site, _ in SITES],
        "norms": [1.0, 3.0],
        "nearest": [[(j + 1) % count, 0.9], [(j + 2) % count, 0.8]],
        "together": [],
        "facts": [["verdict", f"shared: latent {j} {EVIL[1]}"], ["ν of the error", "0.72 (0.6 to 0.8)"],
                  ["unknown", None]],
    }  # fmt: skip


FACTS = {
    "format": 1, "title": "Teal " + EVIL[1], "name": "small", "made": "2026-01-01", "version": "0", "chunk": 256,
    "num_tokens": 240, "sequences": 8, "corpus_files": 1, "rows_per_file": 8,
    "sites": [{"name": name, "model": model, "point": "layers.1", "layer": 1, "width": 4, "read": True, "written": True}
              for name, model in SITES],
    "models": [{"key": "base", "name": "a base"}, {"key": "chat", "name": "a chat"}],
    "cards": [{"title": "Crosscoder", "rows": [["Architecture", "acausal"], ["a", EVIL[0]]]}],
    "columns": [
        {"key": "density", "title": "Density", "help": "How often.", "type": "f4", "kind": "share", "scale": "log"},
        {"key": "tuned_share", "title": "Share of chat", "help": "Of norms.", "type": "f4", "kind": "share",
         "scale": "linear"},
        {"key": "verdict", "title": "Verdict", "help": "Which.", "type": "u1", "kind": "class", "scale": "linear",
         "values": VERDICTS},
    ],
    "intervals": "Four parts of equal width.", "views": ["diff", "layers", "snapshots"],
    "graphs": [{"name": "one", "title": "A graph", "file": "graphs/one.html"},
               {"name": "bad", "title": "x", "file": "javascript:evil()"}],
}  # fmt: skip


def write_small(folder, *, count=600, latents=None, silent=(3,), **more):
    """Write it; `latents` are those that are there, `more` replaces facts. Returns its columns by row."""
    data = folder / "data"
    data.mkdir(parents=True)
    ids = list(range(count)) if latents is None else latents
    facts = copy.deepcopy(FACTS) | {"num_latents": count, "latents": latents} | more
    columns = numbers(len(ids))
    share = np.random.default_rng(1).integers(0, 256, (len(ids), 2)).astype("u1")
    packed = {
        "columns": b"".join(columns[column["key"]].tobytes() for column in facts["columns"]),
        "search": {"labels": {str(j): text for j, text in LABELS.items() if j in ids},
                   "tokens": [f"w{j % 40} {EVIL[1]}" for j in ids]},
        "corpus-000": {"first": 0, "rows": ROWS},
        "vocabulary": {"ids": list(range(len(TEXTS))), "texts": TEXTS},
        "diff": {"note": "Two models.", "lines": {str(j): f"line of {j}" for j in ids[:50]}},
        "layers": share.tobytes(),
        "snapshots": {"labels": ["step 0", "step 1000"], "latents": ids[:40], "values": share[:40].tolist(),
                      "groups": ["emerging", "undated"] * 20},
    }  # fmt: skip
    for chunk in sorted({j // 256 for j in ids}):
        there = [latent(j, count, j in silent) for j in ids if j // 256 == chunk]
        packed[f"latents-{chunk:04d}"] = {"first": 256 * chunk, "latents": there}
    for name, content in packed.items():
        (data / f"{name}.js").write_text(pack_script(name, content), encoding="utf-8")
    (data / "facts.js").write_text(put_script("facts", facts), encoding="utf-8")
    write_shell(folder, title=facts["title"])
    return columns
