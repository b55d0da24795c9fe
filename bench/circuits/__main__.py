"""What a graph costs, against tokens, latents and the budget, and beside circuit-tracer where that is installed.

    python bench/circuits                      circuit-tracer is skipped if it is not there
    python bench/circuits --install            first install it into an environment of its own

CPU seconds and peak memory of one graph on one thread, of a random Llama (6 layers, width 128) with a random
cross-layer transcoder. Results go to `bench/results/circuits.json` and `circuits.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from crosscoders import Site, build_crosscoder
from crosscoders.checkpoints.foreign import export

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results"
PEER = ("circuit-tracer==0.5.0", "nnsight==0.6.1")
LAYERS, WIDTH, VOCABULARY, LATENTS = 6, 128, 128, 256
TURNS = 3
COMPARED = ((16, 16), (16, 32), (16, 64), (16, 256))
"""Tokens and batch size of graphs made by both."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", type=Path, default=HERE.parent / ".peers" / "circuit-tracer")
    parser.add_argument("--install", action="store_true", help="install circuit-tracer first")
    arguments = parser.parse_args()
    if arguments.install and not arguments.environment.exists():
        install(arguments.environment)
    python = arguments.environment / "bin" / "python"
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder))
        for tokens in (8, 16, 32):
            rows.append(run(sys.executable, "own.py", folder, tokens, 0, 64))
        for budget in (100, 300):
            rows.append(run(sys.executable, "own.py", folder, 32, budget, 64))
        if not python.exists():
            print("circuit-tracer is not installed (--install does it), skipped")
        for tokens, batch in COMPARED if python.exists() else ():
            # By turns, since other work on the machine slows both; the least of each counts.
            found = [
                (
                    run(sys.executable, "own.py", folder, tokens, 0, batch),
                    run(str(python), "circuit_tracer_graph.py", folder, tokens, 0, batch),
                )
                for _ in range(TURNS)
            ]
            rows += [min(one, key=lambda row: row.get("cpu_seconds", 1e9)) for one in zip(*found, strict=True)]
    write(rows)


def install(environment: Path) -> None:
    """Torch first, in our version, so that nothing pulls another build."""
    venv.create(environment, with_pip=True)
    for what in ([f"torch=={torch.__version__.partition('+')[0]}"], list(PEER)):
        subprocess.run([environment / "bin" / "pip", "install", "-q", *what], check=True)


def make(folder: Path) -> None:
    """A model with a tokenizer, and a cross-layer transcoder in circuit-tracer's layout."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=LAYERS,
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
    points = [f"layers.{i}.{part}" for part in ("mlp_input", "mlp") for i in range(LAYERS)]
    sites = tuple(Site(f"m/{point}", WIDTH) for point in points)
    clt = build_crosscoder("strictly_causal", sites, num_latents=LAYERS * LATENTS)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in clt.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5)
            if name == "b_enc_F":
                parameter.sub_(1.6)
    export(clt, folder / "clt", "circuit_tracer_clt")


def run(python: str, script: str, folder: str, tokens: int, budget: int, batch: int) -> dict:
    """One graph in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [python, str(HERE / script), folder, str(tokens), str(budget), str(batch)]
    found = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    lines = [line for line in found.stdout.splitlines() if line.startswith("RESULT ")]
    row = {"by": script.partition(".")[0], "tokens": tokens, "budget": budget or None, "batch": batch}
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
    lines = [
        "# What an attribution graph costs",
        "",
        f"Written by `python bench/circuits`: a random Llama of {LAYERS} layers and width {WIDTH}, a random",
        f"cross-layer transcoder with {LATENTS} latents in each layer, one thread. Seconds are of the processor: the",
        "least of five graphs in one process after a first one, without loading, and of three processes by turns where",
        "two are compared. Memory is the peak of the whole process over its six graphs, and what of it came after",
        "loading model and latents.",
        "",
        "| by | tokens | active latents | visited | batch | CPU seconds | peak MB | of it after loading |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row.get("failed"):
            lines.append(f"| {row['by']} | {row['tokens']} | failed | | {row['batch']} | | | |")
        else:
            cells = (row["by"], row["tokens"], row["active"], row["visited"], row["batch"])
            grown = row["peak_mb"] - row["loaded_mb"]
            cost = f" | {row['cpu_seconds']:.2f} | {row['peak_mb']:.0f} | {grown:.0f} |"
            lines.append("| " + " | ".join(map(str, cells)) + cost)
    (RESULTS / "circuits.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
