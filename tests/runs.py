"""Small runs on planted worlds, and comparing what they have learned."""

import os
import socket
import subprocess
import sys

import torch
from safetensors.torch import load_file

from crosscoders import RunConfig
from crosscoders.testing import synthetic_run


def config_of(folder, **changes):
    return RunConfig.from_dict(synthetic_run(str(folder), **changes))


def weights(folder):
    return load_file(folder / "crosscoder" / "model.safetensors")


def assert_bit_equal(first, second):
    assert first.keys() == second.keys()
    for key in first:
        assert torch.equal(first[key], second[key]), key


def launch(script, *arguments, processes):
    """Run a Python file in several processes that talk by gloo, each with one thread.

    `accelerate launch --cpu --num_processes N` would quietly start a single one.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--nproc_per_node", str(processes), "--master_port", str(port)]
    found = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *options, str(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )
    assert found.returncode == 0, found.stderr[-3000:]
