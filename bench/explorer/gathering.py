"""What it takes to write a dashboard, apart from running models and encoding: time, memory, and size.

    python bench/explorer/gathering.py --latents 131072 --tokens 1000000 --output FOLDER

Latents of every token are drawn at random, of very unequal density; activations, decoder rows and the way to the logits
are random too. Everything else is what `write_dashboard` does for a real crosscoder.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import torch

from crosscoders import Latents, ModelChoice, Site, Study, StudyBatch, TokenBatch, build_crosscoder, write_dashboard

WIDTH, LENGTH, ROWS, L0, VOCABULARY = 64, 256, 16, 32, 32_768


class Model:
    """A model whose tokens have texts and whose directions come out in logits; it is never run."""

    def __init__(self) -> None:
        self.model = ModelChoice.of("synthetic", model="a").build()
        self.out_DV = torch.randn(WIDTH, VOCABULARY, generator=torch.Generator().manual_seed(0))

    def read_out(self, point, direction_KD):
        return direction_KD @ self.out_DV

    def token_texts(self, ids):
        return [f" token{number}" for number in ids]

    def __getattr__(self, name):
        return getattr(self.model, name)


class Drawn(Study):
    """A study whose latents are drawn, batch by batch, always the same."""

    def batches(self):
        F, number = self.crosscoder.num_latents, ROWS * LENGTH
        weight_F = (torch.arange(1, F + 1, dtype=torch.float64) ** -0.6)[torch.randperm(F)]
        edge_F = weight_F.cumsum(0) / weight_F.sum()
        for first in range(0, self.num_tokens // LENGTH, ROWS):
            draw = torch.Generator().manual_seed(first)
            drawn = torch.searchsorted(edge_F, torch.rand(number, L0, generator=draw, dtype=torch.float64)).clamp_max(
                F - 1
            )
            pair_N = torch.unique(torch.arange(number)[:, None] * F + drawn)
            value_N = torch.rand(len(pair_N), generator=draw).log().neg() + 0.1
            ids = torch.randint(VOCABULARY, (ROWS, LENGTH), generator=draw)
            every, none = torch.ones_like(ids, dtype=torch.bool), torch.zeros_like(ids, dtype=torch.bool)
            x_BTX = torch.randn(ROWS, LENGTH, 2 * WIDTH, generator=draw)
            batch = StudyBatch(first, TokenBatch(ids, every, none, none), x_BTX, every, self.crosscoder)
            batch.__dict__["latents"] = Latents(pair_N // F, pair_N % F, value_N, number, F)
            yield batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", type=int, default=131_072)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--quiet", action="store_true")
    given = parser.parse_args()
    torch.manual_seed(0)
    model = Model()
    crosscoder = build_crosscoder("acausal", (Site("a/x", WIDTH), Site("b/x", WIDTH)), num_latents=given.latents)
    with torch.no_grad():
        for parameter in crosscoder.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    study = Drawn(crosscoder, {"a": model, "b": model}, None, num_tokens=given.tokens, reading=model, quiet=given.quiet)
    study._pack = True
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    begin, wall = time.process_time(), time.monotonic()
    write_dashboard(study, given.output)
    size = sum(path.stat().st_size for path in given.output.rglob("*") if path.is_file())
    found = {
        "latents": given.latents,
        "tokens": given.tokens,
        "firings_per_token": L0,
        "cpu_seconds": round(time.process_time() - begin),
        "wall_seconds": round(time.monotonic() - wall),
        "megabytes": round(size / 1e6, 1),
        "peak_mb_before": round(before),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    print("RESULT " + json.dumps(found))


if __name__ == "__main__":
    main()
