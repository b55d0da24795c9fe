"""Medians of repeated calls, and what they were measured on. Runs in peers' environments too: torch and no more."""

import gc
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

import torch


def device():
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seconds(call):
    """How long one call takes, with the GPU's work done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def medians(calls, rounds, warm=4):
    """Median seconds of each named call; they take turns, so that a slow moment of the machine meets all."""
    for call in calls.values():
        for _ in range(warm):
            call()
    times = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(seconds(call))
    return {name: statistics.median(values) for name, values in times.items()}


def activations(sites, width, batch, count=4):
    """Batches to train on, `count` different ones in turn."""
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(batch, sites * width, generator=generator).to(device()) for _ in range(count)]
    turn = 0
    while True:
        yield batches[turn % count]
        turn += 1


def encoder_product(sites, width, latents, batch, dtype=torch.float32):
    """One product of a batch with all encoder rows: the unit of all ratios. Its result goes into the same memory."""
    x = torch.randn(batch, sites * width, device=device(), dtype=dtype)
    W = torch.randn(latents, sites * width, device=device(), dtype=dtype)
    out = torch.empty(batch, latents, device=device(), dtype=dtype)
    return lambda: torch.mm(x, W.T, out=out)


def peer(train_step):
    """Main of a peer's script: `train_step(sites, width, latents, batch, k)` returns a function of one step."""
    sites, width, latents, batch, k, rounds = map(int, sys.argv[1:7])
    threads = os.environ.get("BENCH_THREADS")
    if threads:
        torch.set_num_threads(int(threads))
    step = train_step(sites, width, latents, batch, k)
    gc.collect()
    calls = {"product": encoder_product(sites, width, latents, batch), "step": step}
    print("RESULT " + json.dumps(medians(calls, rounds)))


def machine():
    """The processor, threads and versions that numbers depend on."""
    from crosscoders.kernels import preselection

    model = platform.processor() or platform.machine()
    flags = ""
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
        flags = next((line for line in lines if line.startswith("flags")), "")
    kinds = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f" {name} " in flags + " "]
    return {
        "processor": model,
        "instructions": ", ".join(kinds),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
        "torch": torch.__version__,
        'preselect "auto" takes': preselection("auto", device()),
    }
