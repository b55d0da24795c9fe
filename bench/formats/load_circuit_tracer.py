"""Runs in circuit-tracer's environment: load folders by its own loaders, and encode and decode."""

import sys
from pathlib import Path

import torch
from circuit_tracer.transcoder.cross_layer_transcoder import load_clt
from circuit_tracer.transcoder.single_layer_transcoder import load_transcoder_set
from safetensors.torch import load_file, save_file


@torch.no_grad()
def run(kind, folder):
    inputs = load_file(folder / "x.safetensors")
    x = torch.stack([inputs[str(n)] for n in range(len(inputs))])
    if kind == "circuit_tracer_clt":
        clt = load_clt(str(folder / "files"), dtype=torch.float32, device=torch.device("cpu"))
        f = clt.encode(x)
        x_hat = clt.decode(f)
    else:
        paths = {n: str(folder / "files" / f"layer_{n}.safetensors") for n in range(len(inputs))}
        hooks = ("mlp.hook_in", "hook_mlp_out")
        layers = load_transcoder_set(paths, "scan", *hooks, dtype=torch.float32, device=torch.device("cpu"))
        f = torch.stack([layers[n].encode(x[n]) for n in range(len(inputs))])
        x_hat = torch.stack([layers[n].decode(f[n], x[n]) for n in range(len(inputs))])
    save_file({"f": flat(f), "x_hat": flat(x_hat)}, folder / "out.safetensors")


def flat(value):
    return value.transpose(0, 1).flatten(1).float().contiguous()


for argument in sys.argv[1:]:
    kind, _, folder = argument.partition(":")
    run(kind, Path(folder))
