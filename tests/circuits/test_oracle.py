"""The same latents, edges, masks and scores as circuit-tracer, on a graph that it made."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from crosscoders import Crosscoder, ModelChoice
from crosscoders.circuits.attribution import attribution_graph
from crosscoders.circuits.replacement import ReplacementModel
from crosscoders.circuits.rows import csr_from_tensors

DATA = Path(__file__).parent.parent / "data" / "circuits"


@cache
def oracle():
    return load_file(DATA / "oracle.safetensors")


@cache
def model(attention="eager", dtype="float32"):
    sites = [f"m/layers.{i}.{part}" for part in ("mlp_input", "mlp") for i in range(4)]
    adapter = ModelChoice.of("transformers", model=str(DATA / "model"), attention=attention, dtype=dtype).build()
    return ReplacementModel(Crosscoder.from_pretrained(DATA / "clt", sites=sites), adapter)


def graph(attention="eager", dtype="float32", **options):
    given = {"targets": oracle()["logit_ids"].tolist(), "skip_positions": [0], "progress": False, **options}
    return attribution_graph(model(attention, dtype), oracle()["ids"].tolist(), **given)


def test_latents_and_targets_are_the_same():
    found = graph()
    assert torch.equal(found.latent_n3, oracle()["features"].long())
    torch.testing.assert_close(found.value_n, oracle()["values"], rtol=1e-5, atol=1e-5)
    weights = torch.tensor([target.weight for target in found.targets])
    torch.testing.assert_close(weights, oracle()["logit_probabilities"], rtol=1e-5, atol=1e-6)
    # Asked for the most probable tokens, it takes the same first.
    assert [t.token for t in graph(targets=None, max_targets=5).targets] == oracle()["logit_ids"].tolist()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_edges_are_the_same(attention):
    found, size = graph(attention), oracle()["indptr"].shape[0] - 1
    assert found.num_nodes == size
    difference = found.edges_MM - csr_from_tensors(oracle(), (size, size))
    assert np.abs(difference.data).max() < 1e-5
    sums = torch.from_numpy(np.asarray(found.edges_MM.sum(axis=1)).ravel()) + found.constant_M
    torch.testing.assert_close(sums, found.total_M, rtol=1e-5, atol=1e-5)


def test_pruning_keeps_the_same_nodes_and_edges():
    pruned = graph().prune()
    assert np.flatnonzero(pruned.nodes_M).tolist() == oracle()["kept_nodes"].tolist()
    kept = np.stack(pruned.edges_MM.nonzero(), axis=1)
    assert sorted(map(tuple, kept.tolist())) == sorted(map(tuple, oracle()["kept_edges"].tolist()))
    assert np.abs(pruned.cumulative_M - oracle()["cumulative"].numpy()).max() < 1e-6


def test_scores_are_the_same():
    found = graph()
    replacement, completeness = oracle()["scores"].tolist()
    assert found.replacement_score == pytest.approx(replacement, abs=1e-6)
    assert found.completeness_score == pytest.approx(completeness, abs=1e-6)


def test_what_is_passed_on_does_not_name_folders_of_this_machine(tmp_path):
    from crosscoders import save_graph

    save_graph(graph(), tmp_path / "out")
    for path in (tmp_path / "out").rglob("*.*"):
        assert str(DATA).encode() not in path.read_bytes() and str(tmp_path).encode() not in path.read_bytes()


def test_half_precision_gives_the_same_strong_edges():
    from scipy.stats import spearmanr

    whole, half = graph(), graph(dtype="bfloat16")
    places = [{tuple(latent): node for node, latent in enumerate(one.latent_n3.tolist())} for one in (whole, half)]
    common = [(node, places[1][key]) for key, node in places[0].items() if key in places[1]]
    assert len(common) > 0.98 * whole.num_latents
    rows = [
        [*(pair[which] for pair in common), *range(one.errors.start, one.num_nodes)]
        for which, one in enumerate((whole, half))
    ]
    edges = [one.edges_MM.toarray()[np.ix_(row, row)].ravel() for one, row in zip((whole, half), rows)]
    strongest = np.argsort(-np.abs(edges[0]))[:20]
    assert spearmanr(edges[0][strongest], edges[1][strongest]).statistic >= 0.99
