"""One step of `eai-sparsify`'s sparse coder (per-token TopK) on the concatenated sites, with fused Adam."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from sparsify import SparseCoder, SparseCoderConfig
from timing import activations, device, peer


def train_step(sites, width, latents, batch, k):
    config = SparseCoderConfig(num_latents=latents, k=k, normalize_decoder=True)
    coder = SparseCoder(sites * width, config, device=device(), dtype=torch.float32)
    optimizer = torch.optim.Adam(coder.parameters(), lr=1e-4, fused=True)
    batches = activations(sites, width, batch)

    def step():
        coder.set_decoder_norm_to_unit_norm()
        coder(next(batches)).fvu.backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()

    return step


peer(train_step)
