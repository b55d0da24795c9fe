"""What else has to hold of every graph: rows that add up one by one, held derivatives, and files of odd graphs."""

from collections import Counter

import numpy as np
import pytest
import torch

from circuit_models import NAMES, PROMPT, clt, models, tiny, transcoder
from crosscoders import Edit, attribution_graph
from crosscoders.circuits.graph_json import graph_to_json, read_graph_json
from crosscoders.circuits.graph_rules import check_graph_json
from crosscoders.circuits.replacement import ReplacementModel
from crosscoders.models.linear import EMBEDDING, FINAL, one_row


# Rows with random skip maps are sums of terms a hundred times as large as themselves; `gap` judges those.
@pytest.mark.parametrize("name", [name for name in NAMES if name != "clt with skips"])
def test_rows_add_up_each_by_itself(name):
    model = ReplacementModel(models(name), tiny())
    graph = attribution_graph(model, PROMPT, progress=False)
    rows = [*range(graph.num_latents), *range(graph.logits.start, graph.num_nodes)]
    sums = np.asarray(graph.edges_MM.astype(np.float64).sum(axis=1)).ravel() + graph.constant_M.double().numpy()
    total = graph.total_M.double().numpy()
    assert (np.abs(sums - total)[rows] <= 1e-5 * np.maximum(1.0, np.abs(total[rows]))).all()


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma2"])
def test_derivatives_are_the_same_on_other_tokens_while_all_is_held(family):
    """The held model reads other tokens after the first; what a move does there is what was pulled back here."""
    adapter = tiny(family)
    mlps = [f"layers.{i}.mlp" for i in range(3)]
    reads = [f"layers.{i}.mlp_input" for i in range(3)]
    linear = adapter.linearise(one_row(PROMPT), cuts={point: {} for point in mlps}, reads=reads)
    other = adapter.activations(one_row([PROMPT[0], *reversed(PROMPT[1:])]), [EMBEDDING])[EMBEDDING][0]
    assert not torch.allclose(other, linear.values[EMBEDDING])
    fixed = [Edit.replace(point, linear.values[point]) for point in mlps]
    generator = torch.Generator().manual_seed(0)
    move_TD = torch.randn(other.shape, generator=generator)
    for point in (*reads, FINAL):
        seen = []
        for begin in (other, other + move_TD):
            found = {}
            record = Edit(point, lambda x, found=found: found.setdefault("x", x[0].clone())[None])
            linear.held.logits([Edit.replace(EMBEDDING, begin), *fixed, record])
            seen.append(found["x"])
        vector_RD, position_R = torch.randn(4, 16, generator=generator), torch.tensor([6, 4, 2, 0])
        moved_R = (vector_RD * (seen[1] - seen[0])[position_R]).sum(dim=1)
        said_R = torch.einsum("rtd,td->r", linear.pull(point, vector_RD, position_R)[EMBEDDING], move_TD)
        size = float((vector_RD.norm(dim=1) * (seen[1] - seen[0])[position_R].norm(dim=1)).max())
        assert float((moved_R - said_R).abs().max()) <= 3e-6 * max(1.0, size), point


def nothing_active():
    crosscoder = clt(tiny())
    with torch.no_grad():
        crosscoder.b_enc_F.fill_(-100.0)
    return crosscoder


ODD = {
    "no latent": (nothing_active, tiny, PROMPT, {}),
    "last position without latents": (lambda: clt(tiny()), tiny, PROMPT, {"skip_positions": [6]}),
    "one target": (lambda: clt(tiny()), tiny, PROMPT, {"targets": [3]}),
    "one token": (lambda: clt(tiny()), tiny, [5], {}),
    "one layer": (lambda: transcoder(tiny(layers=1), 0), lambda: tiny(layers=1), PROMPT, {}),
}


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("name", ODD)
def test_files_of_odd_graphs_are_valid_and_read_back(name, whole):
    crosscoder, adapter, prompt, options = ODD[name]
    graph = attribution_graph(ReplacementModel(crosscoder(), adapter()), prompt, progress=False, **options)
    content = graph_to_json(graph, slug="odd", scan="m", whole=whole, check=False)
    check_graph_json(content, to_read=name == "one layer")  # the viewer shows no graph of one layer
    assert max(Counter(node["node_id"] for node in content["nodes"]).values()) == 1
    again, expected = read_graph_json(content), graph if whole else graph.pruned()
    assert (again.edges_MM != expected.edges_MM).nnz == 0 and again.num_latents == expected.num_latents
