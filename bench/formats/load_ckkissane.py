"""Runs with Kissane et al.'s code: load folders as its `CrossCoder.load` does, whose folder is fixed in the code."""

import json
import sys
import types
from pathlib import Path

import einops
import torch
from safetensors.torch import load_file, save_file

# Its `utils` is imported for what it imports itself; of that the class needs these.
sys.modules["utils"] = types.ModuleType("utils")
sys.modules["utils"].__dict__.update(torch=torch, einops=einops, json=json, Path=Path)
from crosscoder import CrossCoder  # noqa: E402


@torch.no_grad()
def run(folder):
    config = json.loads((folder / "files" / "0_cfg.json").read_text())
    made = CrossCoder(cfg=config)
    made.load_state_dict(torch.load(folder / "files" / "0.pt"))
    inputs = load_file(folder / "x.safetensors")
    x = torch.stack([inputs[str(n)] for n in range(len(inputs))], dim=1)
    f = made.encode(x)
    save_file({"f": f.contiguous(), "x_hat": made.decode(f).flatten(1).contiguous()}, folder / "out.safetensors")


for argument in sys.argv[1:]:
    run(Path(argument.partition(":")[2]))
