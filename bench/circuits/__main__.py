"""What a graph costs, against tokens, latents and the budget, and beside circuit-tracer where that is installed.

    python bench/circuits                      circuit-tracer is skipped if it is not there
    python bench/circuits --install            first install it into an environment of its own

CPU seconds and peak memory of one graph on one thread, of random Llamas with random cross-layer transcoders: a small
one, and one whose weights are more than the libraries. Results go to `bench/results/circuits.json` and `circuits.md`,
after each pair.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from crosscoders import Site, build_crosscoder
from crosscoders.checkpoints.foreign import export

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results"
PEER = ("circuit-tracer==0.5.0", "nnsight==0.6.1")
VOCABULARY = 128
TURNS = 3


class Size(NamedTuple):
    """A model, and latents in each of its layers."""

    name: str
    layers: int
    width: int
    latents: int
    threshold: float
    """What is taken from pre-activations: the higher, the fewer latents are active."""
    repeats: int
    """Graphs in one process, after a first one."""


SMALL = Size("small", 6, 128, 256, 1.6, 5)
LARGE = Size("large", 12, 512, 2048, 2.6, 1)
OURS, THEIRS = 64, 512
"""The batch sizes that either takes where none is given."""
COMPARED = (
    *((SMALL, 16, ours, theirs) for ours, theirs in ((16, 16), (32, 32), (64, 64), (256, 256), (OURS, THEIRS))),
    *((LARGE, 24, batch, batch) for batch in (16, 64)),
)
"""Size, tokens and both batch sizes of graphs made by both."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", type=Path, default=HERE.parent / ".peers" / "circuit-tracer")
    parser.add_argument("--install", action="store_true", help="install circuit-tracer first")
    arguments = parser.parse_args()
    if arguments.install and not arguments.environment.exists():
        install(arguments.environment)
    python = arguments.environment / "bin" / "python"
    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        for size in (SMALL, LARGE):
            make(Path(folder) / size.name, size)
        for tokens, budget in ((8, 0), (16, 0), (32, 0), (32, 100), (32, 300)):
            rows.append(run(sys.executable, "own.py", folder, SMALL, tokens, budget, OURS))
        if not python.exists():
            print("circuit-tracer is not installed (--install does it), skipped")
        for size, tokens, ours, theirs in COMPARED if python.exists() else ():
            # By turns, since other work on the machine slows both; the least of each counts.
            found = [
                (
                    run(sys.executable, "own.py", folder, size, tokens, 0, ours),
                    run(str(python), "circuit_tracer_graph.py", folder, size, tokens, 0, theirs),
                )
                for _ in range(TURNS if size == SMALL else 1)
            ]
            rows += [min(one, key=lambda row: row.get("cpu_seconds", 1e9)) for one in zip(*found, strict=True)]
            write(rows)
    write(rows)


def install(environment: Path) -> None:
    """Torch first, in our version, so that nothing pulls another build."""
    venv.create(environment, with_pip=True)
    for what in ([f"torch=={torch.__version__.partition('+')[0]}"], list(PEER)):
        subprocess.run([environment / "bin" / "pip", "install", "-q", *what], check=True)


def make(folder: Path, size: Size) -> None:
    """A model with a tokenizer, and a cross-layer transcoder in circuit-tracer's layout."""
    folder.mkdir()
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=size.width,
        intermediate_size=2 * size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=8,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.25,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder / "model")
    words = {"<pad>": 0, "<bos>": 1, "<eos>": 2} | {f"w{i}": i for i in range(3, VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    ).save_pretrained(folder / "model")
    # circuit-tracer's environment has an older transformers, which knows the class by its former name.
    path = folder / "model" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}))
    points = [f"layers.{i}.{part}" for part in ("mlp_input", "mlp") for i in range(size.layers)]
    sites = tuple(Site(f"m/{point}", size.width) for point in points)
    clt = build_crosscoder("strictly_causal", sites, num_latents=size.layers * size.latents)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in clt.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5)
            if name == "b_enc_F":
                parameter.sub_(size.threshold)
    export(clt, folder / "clt", "circuit_tracer_clt")


def run(python: str, script: str, folder: str, size: Size, tokens: int, budget: int, batch: int) -> dict:
    """One graph in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [python, str(HERE / script), f"{folder}/{size.name}", *map(str, (tokens, budget, batch, size.repeats))]
    found = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    lines = [line for line in found.stdout.splitlines() if line.startswith("RESULT ")]
    by = "ours" if script == "own.py" else "circuit-tracer"
    row = {"by": by, "size": size.name, "tokens": tokens, "budget": budget or None, "batch": batch}
    if not lines:
        print(found.stderr[-3000:], file=sys.stderr)
        return {**row, "failed": True}
    row |= json.loads(lines[-1].removeprefix("RESULT "))
    print(row)
    return row


def write(rows: list[dict]) -> None:
    """As JSON and as a table."""
    RESULTS.mkdir(exist_ok=True)
    facts = {"torch": torch.__version__, "transformers": transformers.__version__, "rows": rows}
    (RESULTS / "circuits.json").write_text(json.dumps(facts, indent=1) + "\n")
    sizes = " and ".join(
        f"one of {size.layers} layers, width {size.width} and {size.latents} latents in each layer ({size.name})"
        for size in (SMALL, LARGE)
    )
    lines = [
        "# What an attribution graph costs",
        "",
        f"Written by `python bench/circuits`: random Llamas with random cross-layer transcoders, {sizes}, one thread.",
        f"Seconds are of the processor: the least of {SMALL.repeats} graphs (large: {LARGE.repeats}) in one process",
        f"after a first one, without loading, and of {TURNS} processes by turns (large: 1) where two are compared.",
        "Memory is the peak of the whole process, and what of it came after loading model and latents. Where no batch",
        f"is given, ours are {OURS} and circuit-tracer's {THEIRS}.",
        "",
        "| by | size | tokens | active latents | visited | batch | CPU seconds | peak MB | of it after loading |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row.get("failed"):
            lines.append(f"| {row['by']} | {row['size']} | {row['tokens']} | failed | | {row['batch']} | | | |")
        else:
            cells = (row["by"], row["size"], row["tokens"], row["active"], row["visited"], row["batch"])
            grown = row["peak_mb"] - row["loaded_mb"]
            cost = f" | {row['cpu_seconds']:.2f} | {row['peak_mb']:.0f} | {grown:.0f} |"
            lines.append("| " + " | ".join(map(str, cells)) + cost)
    pairs = [(one, two) for one, two in pairwise(rows) if (one["by"], two["by"]) == ("ours", "circuit-tracer")]
    if pairs:
        lines += ["", "Circuit-tracer's seconds over ours, and our memory over its:", ""]
        lines += ["| size | tokens | batch, ours and its | seconds | peak memory | memory after loading |"]
        lines += ["|---|---|---|---|---|---|"]
    for one, two in pairs:
        if not (one.get("failed") or two.get("failed")):
            grown = (one["peak_mb"] - one["loaded_mb"]) / (two["peak_mb"] - two["loaded_mb"])
            ratios = (two["cpu_seconds"] / one["cpu_seconds"], one["peak_mb"] / two["peak_mb"], grown)
            cells = (one["size"], one["tokens"], f"{one['batch']}, {two['batch']}", *(f"{x:.2f}" for x in ratios))
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    (RESULTS / "circuits.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
