"""Train, save and analyse with nothing but this plugin's components and the built-in text: `python train.py FOLDER`."""

import sys

from crosscoders import RunConfig, analyse, train

config = RunConfig.from_dict(
    {
        "models": {key: {"name": "random_walk", "seed": seed} for seed, key in enumerate(("before", "after"))},
        "sites": ["before/walk", "after/walk"],
        "tokens": {"name": "python_library", "chat_share": 0.0},
        "architecture": {"name": "paired"},
        "loss": {"name": "log_penalty"},
        "activations": {"context_length": 64, "block_tokens": 8192, "calibration_tokens": 4096},
        "training": {"num_tokens": 60_000, "batch_size": 512, "lr": 3e-3, "evaluation_tokens": 4096},
        "device": "cpu",
        "output": sys.argv[1],
    }
)
crosscoder = train(config, quiet=True)
print(crosscoder.info.metrics["explained_variance"])
print(analyse(crosscoder, ["alive", "decoder_norms"], num_tokens=4096)[0].summary)
