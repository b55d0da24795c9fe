"""Processes that share the latents of a foreign checkpoint: each reads its own rows, together they have them all."""

import warnings
from pathlib import Path

import pytest
import torch

from crosscoders import CheckpointError, ConfigError, Crosscoder
from crosscoders.checkpoints.file_bytes import FileData
from crosscoders.processes import Processes
from goldens import answered

DATA = Path(__file__).parent.parent / "data" / "goldens"


@pytest.fixture
def read_bytes(monkeypatch):
    """The lengths of all pieces of files that are read."""
    lengths, read = [], FileData.read

    def counted(self, offset, into):
        lengths.append(len(into))
        read(self, offset, into)

    monkeypatch.setattr(FileData, "read", counted)
    return lengths


def shard(name, number, count):
    """What one of several processes reads."""
    processes = Processes(rank=number, world=count, num_shards=count)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Crosscoder.from_pretrained(
            DATA / name / "files", **answered(DATA / name), normalisation="none", processes=processes
        )


@pytest.mark.parametrize(
    "name",
    [
        "cr_clt/relu_fp32",
        "cr_plt/topk_skip",
        "ck/fp32_local",
        "om/clt_jumprelu",
        "sm_pypi/GatedAutoEncoder",
        "saelens/topk_sub_rescale",
        "gs1/transcoder_npz",
    ],
)
def test_each_process_reads_its_own_rows(name, read_bytes):
    whole = shard(name, 0, 1)
    all_bytes = sum(read_bytes)
    read_bytes.clear()
    parts = [shard(name, number, 2) for number in range(2)]
    # Rows are read once; encoder biases, thresholds, skip maps and statistics by each process.
    assert sum(read_bytes) < 1.5 * all_bytes
    for number, group in enumerate(whole.wiring.groups):
        for weights in ("W_enc", "W_dec"):
            split = torch.cat([getattr(part, weights)[number] for part in parts])
            assert torch.equal(split, getattr(whole, weights)[number]), (group.name, weights)
        latents = whole.wiring.latent_slices[group.name]
        of_parts = [part.b_enc_F[part.wiring.latent_slices[group.name]] for part in parts]
        # A bias that is folded in is a product, and how that rounds depends on the number of rows.
        torch.testing.assert_close(torch.cat(of_parts), whole.b_enc_F[latents], rtol=1e-6, atol=1e-6)
        if whole.gate.name == "jumprelu":
            of_parts = [part.gate.threshold_F[part.wiring.latent_slices[group.name]] for part in parts]
            assert torch.equal(torch.cat(of_parts), whole.gate.threshold_F[latents])
    assert torch.equal(parts[1].b_dec_X, whole.b_dec_X)
    assert all(torch.equal(a, b) for a, b in zip(parts[1].W_skip, whole.W_skip))


def test_latents_that_cannot_be_shared_evenly():
    with pytest.raises((CheckpointError, ConfigError), match="7"):
        shard("ck/fp32_local", 0, 7)
