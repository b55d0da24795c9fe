"""Large foreign checkpoints: memory while loading, and headers alone for inspection, each in a process of its own."""

import subprocess
import sys

import torch
from safetensors.torch import save_file

LAYERS, WIDTH, LATENTS = 4, 256, 4096
MEASURE = """
import resource, sys
from crosscoders import Crosscoder
from crosscoders.authoring import Answers, Source
from crosscoders.checkpoints.foreign import find

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

small, large = sys.argv[1:]
sites = {"in.*": "m/layers.*.mlp_input", "out.*": "m/layers.*.mlp"}
Crosscoder.from_pretrained(small, sites=sites)
before = peak()
find(Source.of(large)).inspect(Answers())
inspected = peak()
made = Crosscoder.from_pretrained(large, sites=sites)
print(inspected - before, peak() - before, sum(p.nbytes for p in made.parameters()))
"""


def clt(folder, latents):
    """A cross-layer transcoder in bf16 in circuit-tracer's layout; returns the bytes of its largest tensor in fp32."""
    folder.mkdir()
    for n in range(LAYERS):
        encoder = {f"W_enc_{n}": torch.ones(latents, WIDTH), f"b_enc_{n}": torch.zeros(latents)}
        encoder[f"b_dec_{n}"] = torch.zeros(WIDTH)
        save_file({k: v.bfloat16() for k, v in encoder.items()}, folder / f"W_enc_{n}.safetensors")
        W_dec = torch.ones(latents, LAYERS - n, WIDTH, dtype=torch.bfloat16)
        save_file({f"W_dec_{n}": W_dec}, folder / f"W_dec_{n}.safetensors")
    return 4 * latents * LAYERS * WIDTH


def test_loading_holds_next_to_nothing_twice(tmp_path):
    clt(tmp_path / "small", 64)
    largest = clt(tmp_path / "large", LATENTS)
    found = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path / "small", tmp_path / "large"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    inspected, peak, final = map(int, found.stdout.split())
    print(f"inspected +{inspected / 1e6:.1f} MB, peak +{peak / 1e6:.1f} MB, final {final / 1e6:.1f} MB")
    assert inspected < 2e6
    # A tenth of the largest tensor, and what the allocator and two pieces of rows take.
    assert peak < final + 0.1 * largest + 12e6
