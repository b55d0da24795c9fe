"""Large foreign checkpoints: memory while loading, and headers alone for inspection, each in a process of its own."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

LAYERS, WIDTH, LATENTS = 4, 256, 4096
MEASURE = """
import json, sys
from crosscoders import Crosscoder
from crosscoders.authoring import Answers, Source
from crosscoders.checkpoints.foreign import find

def peak():
    # Of this process alone; the larger getrusage counts what the parent had when it forked.
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) * 1024

small, large, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
Crosscoder.from_pretrained(small, **options)
before = peak()
find(Source.of(large)).inspect(Answers(others=options.get("answers", {})))
inspected = peak()
made = Crosscoder.from_pretrained(large, **options)
print(inspected - before, peak() - before, sum(p.nbytes for p in made.parameters()))
"""
LARGEST = 4 * LATENTS * LAYERS * WIDTH
"""Bytes of the largest tensor of each of these, in fp32."""


def clt(folder, latents):
    """A cross-layer transcoder in bf16 in circuit-tracer's layout."""
    for n in range(LAYERS):
        encoder = {f"W_enc_{n}": torch.ones(latents, WIDTH), f"b_enc_{n}": torch.zeros(latents)}
        encoder[f"b_dec_{n}"] = torch.zeros(WIDTH)
        save_file({k: v.bfloat16() for k, v in encoder.items()}, folder / f"W_enc_{n}.safetensors")
        W_dec = torch.ones(latents, LAYERS - n, WIDTH, dtype=torch.bfloat16)
        save_file({f"W_dec_{n}": W_dec}, folder / f"W_dec_{n}.safetensors")
    return {"sites": {"in.*": "m/layers.*.mlp_input", "out.*": "m/layers.*.mlp"}}


def pair(folder, latents):
    """Kissane et al.'s `.pt`: two models, with a decoder that was a transposed view when it was saved."""
    weights = {"W_enc": torch.ones(2, 2 * WIDTH, latents), "W_dec": torch.ones(2, 2 * WIDTH, latents).permute(2, 0, 1)}
    torch.save({**weights, "b_enc": torch.zeros(latents), "b_dec": torch.zeros(2, 2 * WIDTH)}, folder / "0.pt")
    return {"sites": ["a/0", "b/0"], "normalisation": "none", "answers": {"gate": "relu"}}


def gemma(folder, latents):
    """Gemma Scope's `.npz`."""
    shapes = {"W_enc": (4 * WIDTH, latents), "W_dec": (latents, 4 * WIDTH), "b_enc": latents, "b_dec": 4 * WIDTH}
    random = np.random.default_rng(0)
    arrays = {name: random.integers(0, 9, shape).astype(np.float32) for name, shape in shapes.items()}
    np.savez(folder / "params.npz", **arrays, threshold=np.ones(latents, np.float32))
    return {"sites": ["a/0"], "answers": {"kind": "sae"}}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks are read from /proc")
@pytest.mark.parametrize("make", [clt, *(pytest.param(make, marks=pytest.mark.slow) for make in (pair, gemma))])
def test_loading_holds_next_to_nothing_twice(make, tmp_path):
    for name, latents in (("small", 64), ("large", LATENTS)):
        (tmp_path / name).mkdir()
        options = make(tmp_path / name, latents)
    arguments = [tmp_path / "small", tmp_path / "large", json.dumps(options)]
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEASURE, *arguments], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    inspected, peak, final = map(int, found.stdout.split())
    print(f"inspected +{inspected / 1e6:.1f} MB, peak +{peak / 1e6:.1f} MB, final {final / 1e6:.1f} MB")
    assert inspected < 2e6
    # A tenth of the largest tensor, and what the allocator and two pieces of rows take.
    assert peak < final + 0.1 * LARGEST + 12e6
