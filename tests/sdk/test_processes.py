"""Latents parted over processes: the same training as in one process, and checkpoints for any number of them."""

import json
import shutil

import pytest
import torch

from crosscoders import (
    ArchitectureChoice,
    CheckpointError,
    ConfigError,
    Crosscoder,
    RunConfig,
    Site,
    build_crosscoder,
    train,
)
from crosscoders.checkpoints.tensors import StoredTensors, save_tensors
from crosscoders.processes import Processes
from crosscoders.testing import synthetic_run
from runs import config_of, launch

TRAIN = """
import json, sys, torch
torch.set_num_threads(1)
from accelerate import PartialState
from crosscoders import RunConfig
from crosscoders.training import Runner
for path in sys.argv[2:]:
    runner = Runner(RunConfig.from_dict(json.load(open(path))))
    assert runner.processes.world == int(sys.argv[1]), runner.processes
    runner.run(quiet=True)
"""

LOSSES = {
    "batchtopk": {"name": "batchtopk", "k": 2},
    "groups": {"name": "batchtopk", "k": 1, "scope": "group", "preselect": "bf16"},
    "l1": {"name": "l1", "weight": 0.3, "target_l0": 2.0},
    "jumprelu": {"name": "jumprelu", "weight": 0.1, "target_l0": 2.0},
    "quadratic": {"name": "jumprelu", "penalty": "quadratic", "target_l0": 2.0},
    "delta": {"name": "delta", "k": 1, "k_shared": 2},
    "dfc": {"name": "dfc", "k": 2, "shared_weight": 0.1},
    "dsf": {"name": "dsf", "weight": 0.3},
}
ARCHITECTURES = {
    "groups": {"name": "dedicated", "num_latents": 32, "exclusive_share": 0.25},
    "delta": {"name": "designated_shared", "num_latents": 32, "designated_share": 0.5},
    "dfc": {"name": "dedicated", "num_latents": 32, "exclusive_share": 0.25},
    "dsf": {"name": "designated_shared", "num_latents": 32, "designated_share": 0.5},
}


def data_of(folder, name, shards=1, **training):
    training = {"num_tokens": 5120, "dead_after_share": 0.05, "shards": shards, **training}
    data = synthetic_run(str(folder), training=training)
    return {**data, "loss": LOSSES[name], "architecture": ARCHITECTURES.get(name, data["architecture"])}


def launched(tmp_path, processes, runs):
    """Train all of `runs`, by folder, in one launch."""
    (tmp_path / "train.py").write_text(TRAIN)
    paths = []
    for folder, (name, shards, options) in runs.items():
        paths.append(tmp_path / f"{folder}.json")
        paths[-1].write_text(json.dumps(data_of(tmp_path / folder, name, shards, **options)))
    launch(tmp_path / "train.py", processes, *paths, processes=processes)


def assert_same_training(folder, expected):
    """Weights, gate, metrics and history, to what sums in another order make of them."""
    found, first = (Crosscoder.from_pretrained(f / "crosscoder") for f in (folder, expected))
    for key, value in first.state_dict().items():
        torch.testing.assert_close(
            found.state_dict()[key], value, rtol=2e-3, atol=2e-4, msg=lambda t, k=key: f"{k}: {t}"
        )
    for key in ("l0", "silent_share"):
        assert found.info.metrics[key] == pytest.approx(first.info.metrics[key], rel=1e-2, abs=1e-3)
    for ours, theirs in zip(*(json.loads((f / "history.json").read_text()) for f in (folder, expected)), strict=True):
        assert ours == pytest.approx(theirs, rel=5e-3, abs=1e-3)


@pytest.mark.slow
def test_two_and_four_processes_train_what_one_does(tmp_path):
    """As replicas (1 shard), as shards, as replicas of shards; begun by two shards and ended by four, and by one."""
    for name in LOSSES:
        train(RunConfig.from_dict(data_of(tmp_path / name, name)), quiet=True)
    train(RunConfig.from_dict(data_of(tmp_path / "accumulated", "batchtopk", accumulation=2)), quiet=True)
    runs = {f"replicas-{name}": (name, 1, {}) for name in LOSSES if name not in ("groups", "dfc", "dsf")}
    runs |= {f"shards-{name}": (name, 2, {"save_every": 10}) for name in LOSSES if name != "quadratic"}
    runs |= {f"accumulated-{shards}": ("batchtopk", shards, {"accumulation": 2}) for shards in (1, 2)}
    launched(tmp_path, 2, runs)
    checkpoint = "checkpoints/step-00000010"
    for folder in ("resumed-4", "resumed-1"):
        shutil.copytree(tmp_path / "shards-batchtopk" / checkpoint, tmp_path / folder / checkpoint)
    train(RunConfig.from_dict(data_of(tmp_path / "resumed-1", "batchtopk")), quiet=True)
    more = {
        "mixed-batchtopk": ("batchtopk", 2, {}),
        "four-groups": ("groups", 4, {}),
        "four-l1": ("l1", 4, {}),
        "mixed-quadratic": ("quadratic", 2, {}),
        "resumed-4": ("batchtopk", 4, {}),
    }
    launched(tmp_path, 4, more)
    for folder, (name, _, options) in {**runs, **more, "resumed-1": ("batchtopk", 1, {})}.items():
        assert_same_training(tmp_path / folder, tmp_path / ("accumulated" if "accumulation" in options else name))


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_any_number_writes_and_any_number_reads(tmp_path, count, parts):
    sizes = (8, 4)
    whole = {
        "W_enc.0": torch.randn(8, 3),
        "W_enc.1": torch.randn(4, 2),
        "b_enc_F": torch.arange(12.0),
        "b_dec_X": torch.randn(5),
        "step": torch.tensor(3),
    }
    rows = {"W_enc.0": "group", "W_enc.1": "group", "b_enc_F": "latents"}

    def part_of(number, of):
        biases = [group.chunk(of)[number] for group in whole["b_enc_F"].split(sizes)]
        return {
            **whole,
            "W_enc.0": whole["W_enc.0"].chunk(of)[number],
            "W_enc.1": whole["W_enc.1"].chunk(of)[number],
            "b_enc_F": torch.cat(biases),
        }

    for shard in range(count):
        save_tensors(
            tmp_path, "model", part_of(shard, count), rows, Processes(rank=shard, world=count, num_shards=count)
        )
    stored = StoredTensors.open(tmp_path, "model")
    assert stored.shapes() == {key: tuple(tensor.shape) for key, tensor in whole.items()}
    for part in range(parts):
        found = stored.read(sizes, part, parts, sharding=rows)
        expected = part_of(part, parts)
        assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in found)
    if count > 1:
        stored.path.unlink()
        with pytest.raises(CheckpointError, match="model-00001-of"):
            stored.shapes()
        (tmp_path / "model.safetensors.index.json").write_text("{}")
        with pytest.raises(CheckpointError, match="should have a number of files"):
            StoredTensors.open(tmp_path, "model")


def test_what_cannot_be_sharded_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be split into replicas of 2 shards"):
        train(config_of(tmp_path, training={"shards": 2}), quiet=True)
    with pytest.raises(ConfigError, match="needs the optimizer 'adam'"):
        config_of(tmp_path, training={"shards": 2, "optimizer": "adafactor"})
    sharded = Processes(rank=0, world=3, num_shards=3)
    layout = (Site("a/x", 4), Site("b/x", 4))
    for architecture, message in [
        (ArchitectureChoice.of("acausal", num_latents=32), "does not divide the latents of group all"),
        (ArchitectureChoice.of("matryoshka", of=ArchitectureChoice.of("acausal", num_latents=33)), "nested latents"),
        (ArchitectureChoice.of("factored", num_latents=33, rank=2), "cannot be sharded"),
    ]:
        with pytest.raises(ConfigError, match=message):
            build_crosscoder(architecture, layout, processes=sharded)
