"""Tokens per second of harvesting alone, training alone, both at once, and training from a cache.

Models and crosscoder get one device each: two GPUs where there are, else one core each. The shipped model pair and a
crosscoder on as many of its layers as make both sides about equally slow.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import torch

from crosscoders import RunConfig
from crosscoders.training import Runner, harvest

NUM_TOKENS = 98_304
BATCH = 2048


def config_of(folder, num_latents, **activations):
    """A run on the shipped pair; `activations` go into its table."""
    two = torch.cuda.device_count() > 1
    return RunConfig.from_dict(
        {
            "models": {key: {"name": "transformers", "model": f"tiny-pair/{key}"} for key in ("base", "chat")},
            "sites": ["base/layers.2", "chat/layers.2"],
            "tokens": {"name": "python_library"},
            "architecture": {"name": "acausal", "num_latents": num_latents},
            "loss": {"name": "batchtopk", "k": 32},
            "activations": {"context_length": 128, "block_tokens": 16_384, "calibration_tokens": 8192, **activations},
            "training": {"num_tokens": NUM_TOKENS, "batch_size": BATCH, "evaluation_tokens": 8192},
            "models_device": "cuda:1" if two else "",
            "output": str(folder),
        }
    )


def measure(folder, num_latents):
    """Tokens per second of each."""
    found = {}
    runner = Runner(config_of(folder / "alone", num_latents))
    calibration = runner.source.calibrate()
    blocks = runner.source.blocks(calibration.median_norm_S)
    position, kept, start = blocks.start(), 0, time.perf_counter()
    for number in range(4):
        block, position = blocks.read(number, position)
        kept += len(block.x_RX)
    found["harvest alone"] = kept / (time.perf_counter() - start)
    run = runner.runs[0]
    run.start(calibration)
    batches = [block.x_RX[torch.randperm(len(block.x_RX))[:BATCH]].float() for _ in range(4)]
    for batch in batches:
        run.trainer.step([batch])
    start = time.perf_counter()
    for number in range(16):
        run.trainer.step([batches[number % 4]])
    found["training alone"] = 16 * BATCH / (time.perf_counter() - start)
    cache = folder / "cache"
    config = config_of(folder / "cached", num_latents)
    harvest(config, cache, quiet=True)
    for name, changes in {
        "one after the other": {"prefetch": "off"},
        "live, overlapping": {"prefetch": "on"},
        "from the cache": {"cache": cache},
    }.items():
        import attrs

        config = config_of(folder / name.replace(" ", "-"), num_latents, prefetch=changes.get("prefetch", "auto"))
        runner = Runner(attrs.evolve(config, cache=changes.get("cache")))
        stream = runner._stream(resume=False)
        batches, steps = iter(stream), runner.config.training.num_steps
        run = runner.runs[0]
        # Only the steady state counts: the first blocks have nothing to overlap with.
        warm = steps // 3
        for number in range(steps):
            if number == warm:
                start = time.perf_counter()
            run.trainer.step([next(batches)])
        found[name] = (steps - warm) * BATCH / (time.perf_counter() - start)
        stream.close()
    slower = min(found["harvest alone"], found["training alone"])
    found["live / slower alone"] = found["live, overlapping"] / slower
    found["cached / training alone"] = found["from the cache"] / found["training alone"]
    return found


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("BENCH_THREADS", "1")))
    with tempfile.TemporaryDirectory() as folder:
        print("RESULT " + json.dumps(measure(Path(folder), int(sys.argv[1]))))
