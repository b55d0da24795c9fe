"""Runs in SAELens' environment: load folders by its own loader, and encode and decode."""

import sys
from pathlib import Path

import torch
from sae_lens import SAE
from safetensors.torch import load_file, save_file


@torch.no_grad()
def run(folder):
    sae = SAE.load_from_disk(str(folder / "files"), device="cpu")
    inputs = load_file(folder / "x.safetensors")
    x = torch.cat([inputs[str(n)] for n in range(len(inputs))], dim=1)
    f = sae.encode(x)
    # A skip connection is added in its `forward`, which takes the input.
    x_hat = sae(x) if getattr(sae, "W_skip", None) is not None else sae.decode(f)
    save_file({"f": f.contiguous(), "x_hat": x_hat.contiguous()}, folder / "out.safetensors")


for argument in sys.argv[1:]:
    run(Path(argument.partition(":")[2]))
