"""Runs with crosscoder_learning's code: load folders by `from_pretrained`, and encode and decode."""

import json
import sys
import types
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

# The package's own `__init__` and its readers of data need libraries that its dictionaries do not.
package = types.ModuleType("dictionary_learning")
package.__path__ = [str(Path(sys.path[1]) / "dictionary_learning")]
sys.modules["dictionary_learning"] = package
sys.modules["zstandard"] = types.ModuleType("zstandard")
sys.modules["datasets"] = types.ModuleType("datasets")
sys.modules["datasets"].load_dataset = None
from dictionary_learning.dictionary import BatchTopKCrossCoder, CrossCoder  # noqa: E402


@torch.no_grad()
def run(folder):
    config = json.loads((folder / "files" / "config.json").read_text())
    kind = {"CrossCoder": CrossCoder, "BatchTopKCrossCoder": BatchTopKCrossCoder}[config["dict_class"]]
    made = kind.from_pretrained(str(folder / "files"), from_hub=True)
    inputs = load_file(folder / "x.safetensors")
    x = torch.stack([inputs[str(n)] for n in range(len(inputs))], dim=1)
    f = made.encode(x)
    save_file({"f": f.contiguous(), "x_hat": made.decode(f).flatten(1).contiguous()}, folder / "out.safetensors")


for argument in sys.argv[1:]:
    run(Path(argument.partition(":")[2]))
