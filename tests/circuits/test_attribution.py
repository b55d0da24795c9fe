"""Attribution graphs: against a hand-written model, the sum rule, budgets, resuming, files, and odd prompts."""

import json

import numpy as np
import pytest
import torch

from circuit_models import NAMES, PROMPT, clt, models, tiny, transcoder
from circuit_naive import NaiveLlama
from crosscoders import AnalysisError
from crosscoders.circuits.attribution import attribution_graph
from crosscoders.circuits.graph import AttributionGraph
from crosscoders.circuits.replacement import ReplacementModel
from crosscoders.circuits.targets import Difference, Direction


def graph_of(crosscoders, adapter=None, prompt=PROMPT, **options):
    model = ReplacementModel(crosscoders, adapter or tiny())
    return attribution_graph(model, prompt, **{"progress": False, "batch_size": 16, **options})


def test_edges_are_those_of_a_hand_written_model():
    """Every source is pushed forwards alone through a Llama written out in matrices."""
    adapter = tiny(layers=2)
    crosscoder = clt(adapter, num_latents=20)
    found = graph_of(crosscoder, adapter, targets=[4, 9], skip_positions=[])
    naive, folded = NaiveLlama(adapter.model, PROMPT), {k: v.double() for k, v in crosscoder.folded().items()}
    length, nothing = len(PROMPT), torch.zeros(len(PROMPT), 16, dtype=torch.float64)
    bias = crosscoder.written.unpack(folded["b_dec_X"])
    f = [
        torch.relu(naive.reads[i] @ folded[f"W_enc.{i}"].T + folded["b_enc_F"][10 * i : 10 * (i + 1)]) for i in range(2)
    ]
    rows = [folded["W_dec.0"].view(10, 2, 16), folded["W_dec.1"].view(10, 1, 16)]
    explained = [f[0] @ rows[0][:, 0], f[0] @ rows[0][:, 1] + f[1] @ rows[1][:, 0]]
    errors = [naive.mlps[m] - explained[m] - bias[f"m/layers.{m}.mlp"] for m in range(2)]
    encoder = [folded["W_enc.0"], folded["W_enc.1"]]
    head = naive.head - naive.head.mean(dim=0)

    def column(embedding, mlps, **options):
        reads, final = naive.push(embedding, mlps, **options)
        pre = torch.stack([encoder[layer][i] @ reads[layer][t] for layer, t, i in found.latent_n3.tolist()])
        return torch.cat([pre, head[[4, 9]] @ final[-1]])

    def at(position, vector):
        return torch.where(torch.arange(length)[:, None] == position, vector, 0.0)

    edges = torch.from_numpy(found.edges_MM.toarray())
    targets = [*range(found.num_latents), *range(found.logits.start, found.num_nodes)]
    assert sum(int((one > 0).sum()) for one in f) == found.num_latents > 20
    for node in range(found.logits.start):
        embedding, mlps = nothing, [nothing, nothing]
        if node < found.num_latents:
            layer, t, i = found.latent_n3[node].tolist()
            for j in range(2 - layer):
                mlps[layer + j] = at(t, f[layer][t, i] * rows[layer][i, j])
        elif node < found.embeddings.start:
            m, t = divmod(node - found.errors.start, length)
            mlps[m] = at(t, errors[m])
        else:
            embedding = at(node - found.embeddings.start, naive.embedding)
        expected = column(embedding, mlps)
        torch.testing.assert_close(edges[targets, node].double(), expected, rtol=1e-4, atol=2e-5, msg=found.name(node))
    constants = column(nothing, [bias[f"m/layers.{m}.mlp"].expand(length, 16) for m in range(2)], bias=True)
    torch.testing.assert_close(found.constant_M[targets].double(), constants, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_edges_and_constants_add_up_to_what_is_explained(name):
    found = graph_of(models(name), targets=[4, Difference(5, 9), Direction("any", torch.linspace(-1, 1, 16))])
    assert found.num_latents == found.num_active >= 20 and found.gap() < 1e-6
    model = ReplacementModel(models(name), tiny())
    row = model.row(PROMPT)
    values = tiny().activations(row, [*{one.read for one in model.sets}, "final"])
    for node, (layer, position, index) in enumerate(found.latent_n3.tolist()):
        one, local = model.set_of(layer, index)
        local = torch.tensor([local])
        pre = float(one.encoder_rows(local)[0] @ values[one.read][0, position])
        assert float(found.total_M[node]) == pytest.approx(pre, abs=1e-4)
        assert float(found.value_n[node]) == pytest.approx(pre + float(one.encoder_bias(local)), abs=1e-4)
    logits = tiny().logits(row)[0, -1]
    assert found.targets[0].value == pytest.approx(float(logits[4] - logits.mean()), abs=1e-4)
    assert found.targets[1].value == pytest.approx(float(logits[5] - logits[9]), abs=1e-4)
    along = float(torch.linspace(-1, 1, 16) @ values["final"][0, -1])
    assert found.targets[2].value == pytest.approx(along, abs=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "gemma2"])
def test_edges_add_up_in_other_families(family):
    adapter = tiny(family)
    found = graph_of(clt(adapter, skip=True), adapter)
    assert found.num_latents > 20 and found.gap() < 2e-6


def test_a_difference_is_the_difference_of_its_rows():
    crosscoder = clt(tiny())
    both = graph_of(crosscoder, targets=[5, 9]).edges_MM.toarray()[-2:]
    one = graph_of(crosscoder, targets=[Difference("f", "j")])
    assert one.targets[0].label == "f − j"
    np.testing.assert_allclose(one.edges_MM.toarray()[-1, : one.logits.start], (both[0] - both[1])[:-2], atol=1e-5)


def test_batches_change_no_row_and_a_budget_of_all_is_no_budget():
    crosscoder = clt(tiny())
    plain, small = graph_of(crosscoder), graph_of(crosscoder, batch_size=5)
    np.testing.assert_allclose(small.edges_MM.toarray(), plain.edges_MM.toarray(), atol=1e-6)
    unlimited = graph_of(crosscoder, max_nodes=None)
    everything = graph_of(crosscoder, max_nodes=plain.num_active)
    assert (unlimited.edges_MM != everything.edges_MM).nnz == 0
    assert torch.equal(unlimited.total_M, everything.total_M)


def test_a_budget_visits_what_matters_most_first():
    crosscoder = clt(tiny())
    whole, part = graph_of(crosscoder), graph_of(crosscoder, max_nodes=12, batch_size=1)
    assert part.num_latents == 12 and part.num_active == whole.num_latents
    place = {tuple(latent): node for node, latent in enumerate(whole.latent_n3.tolist())}
    rows = [place[tuple(latent)] for latent in part.latent_n3.tolist()]
    kept = [*rows, *range(whole.errors.start, whole.num_nodes)]
    np.testing.assert_allclose(part.edges_MM.toarray(), whole.edges_MM.toarray()[np.ix_(kept, kept)], atol=1e-5)
    assert part.gap() < 1e-5 and float(part.left_out_M.abs().max()) > 0.01  # what was left out is said, not lost
    # By influence on the targets in the whole graph the chosen ones are far better than as many of the rest.
    chosen, rest = whole.influence_M[rows], np.delete(whole.influence_M[whole.latents], rows)
    assert chosen.mean() > 2 * rest.mean()
    assert graph_of(crosscoder, max_nodes=0).num_latents == 0


def test_a_stopped_run_goes_on_from_its_rows(tmp_path, monkeypatch):
    from crosscoders.circuits import attribution, prompt

    crosscoder = clt(tiny())
    plain = graph_of(crosscoder, max_nodes=20, batch_size=2)
    own, calls = prompt.ExplainedPrompt.bring, []

    def failing(self, *given):
        calls.append(1)
        if len(calls) == 12:
            raise KeyboardInterrupt
        return own(self, *given)

    monkeypatch.setattr(prompt.ExplainedPrompt, "bring", failing)
    with pytest.raises(KeyboardInterrupt):
        graph_of(crosscoder, max_nodes=20, batch_size=2, folder=tmp_path / "rows")
    stopped = len(list((tmp_path / "rows").glob("rows-*.safetensors")))
    assert stopped >= 2
    before = len(calls)
    again = graph_of(crosscoder, max_nodes=20, batch_size=2, folder=tmp_path / "rows")
    total = len(calls) - before
    assert (again.edges_MM != plain.edges_MM).nnz == 0 and torch.equal(again.latent_n3, plain.latent_n3)
    assert torch.equal(again.constant_M, plain.constant_M)
    assert not (tmp_path / "rows").exists()
    monkeypatch.setattr(prompt.ExplainedPrompt, "bring", lambda self, *given: calls.append(1) or own(self, *given))
    before = len(calls)
    graph_of(crosscoder, max_nodes=20, batch_size=2)
    assert total < len(calls) - before  # it did not compute them again
    # Rows of another prompt are not taken for this one's.
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "plan.json").write_text(json.dumps({"fingerprint": "of another prompt"}))
    (tmp_path / "rows" / "rows-00000.safetensors").write_bytes(b"of another prompt")
    other = graph_of(crosscoder, max_nodes=20, batch_size=2, folder=tmp_path / "rows")
    assert (other.edges_MM != plain.edges_MM).nnz == 0 and attribution.RANKED_EVERY == 4


def test_a_saved_graph_is_the_same_graph(tmp_path):
    found = graph_of(clt(tiny()))
    found.save(tmp_path / "graph")
    again = AttributionGraph.load(tmp_path / "graph")
    assert (again.edges_MM != found.edges_MM).nnz == 0 and again.edges_MM.shape == found.edges_MM.shape
    for name in ("latent_n3", "value_n", "constant_M", "left_out_M", "total_M"):
        assert torch.equal(getattr(again, name), getattr(found, name)), name
    for name in ("ids", "texts", "cuts", "targets", "position", "num_layers", "num_active", "record"):
        assert getattr(again, name) == getattr(found, name), name
    found.save(tmp_path / "graph")  # in the place of the old one
    content = (tmp_path / "graph" / "graph.safetensors").read_bytes()
    (tmp_path / "graph" / "graph.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(AnalysisError, match="does not have the checksum"):
        AttributionGraph.load(tmp_path / "graph")
    with pytest.raises(AnalysisError, match="is not a graph: there is no graph.json"):
        AttributionGraph.load(tmp_path)
    (tmp_path / "graph" / "graph.json").write_text('{"format": 9}')
    with pytest.raises(AnalysisError, match="not a graph of format 1"):
        AttributionGraph.load(tmp_path / "graph")


def test_no_folder_of_somebody_else_is_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("all of it")
    found = graph_of(clt(tiny()), max_nodes=2)
    with pytest.raises(AnalysisError, match="holds other files than a graph"):
        found.save(tmp_path)
    with pytest.raises(AnalysisError, match="holds other files than rows"):
        graph_of(clt(tiny()), max_nodes=2, folder=tmp_path)
    (tmp_path / "plan.json").write_text("{}")
    graph_of(clt(tiny()), max_nodes=2, folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_odd_prompts():
    adapter = tiny(layers=1)
    crosscoder = transcoder(adapter, 0)
    for prompt, options in (([5], {}), ([1], {}), (PROMPT, {"targets": [3]}), (PROMPT, {"position": 2})):
        found = graph_of(crosscoder, adapter, prompt, **options)
        assert found.gap() < 1e-5 and found.num_nodes == found.edges_MM.shape[0]
        assert 0 <= found.replacement_score <= 1 and 0 <= found.completeness_score <= 1
    assert graph_of(crosscoder, adapter, [1]).num_latents == 0  # only BOS, which is left out
    assert graph_of(crosscoder, adapter, PROMPT, position=2).edges_MM.toarray()[-1, -20:].any()
    with torch.no_grad():
        crosscoder.b_enc_F.fill_(-100.0)
    none = graph_of(crosscoder, adapter)
    assert none.num_active == 0 and none.gap() < 1e-5 and none.prune().nodes_M[none.logits].all()
    last_empty = clt(tiny())
    found = graph_of(last_empty, skip_positions=[len(PROMPT) - 1])
    assert int(found.latent_n3[:, 1].max()) < len(PROMPT) - 1 and found.gap() < 1e-5


def test_names_tables_and_messages():
    said = []
    found = graph_of(clt(tiny()), say=said.append)
    assert "7 tokens" in said[0] and "MB besides the model" in said[0]
    layer, position, index = found.latent_n3[0].tolist()
    assert found.name(0) == f"latent {layer}/{index} at {position}"
    assert found.name(found.errors.start) == "error layers.0.mlp at 0"
    assert found.name(found.embeddings.start + 1) == 'token "j" at 1'
    assert found.name(found.logits.start).startswith('logit "')
    top = found.top(3)
    assert len(top.rows) == 3 and top.rows[0][-1] >= top.rows[1][-1]
    assert found.influence_M[top.rows[0][0]] == found.influence_M[found.latents].max()
    strongest = found.edges_into(found.logits.start, 2).rows
    row = found.edges_MM.toarray()[found.logits.start]
    assert abs(strongest[0][2]) == pytest.approx(np.abs(row).max()) and len(strongest) == 2
    assert "active latents" in repr(found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": []}, "list with at least one"),
        ({"targets": "a"}, "list with at least one"),
        ({"targets": [99]}, "no token 99; the model has logits for 0 to 31"),
        ({"targets": ["ef"]}, "should be one token, but it is 2: 'e', 'f'"),
        ({"targets": [4, "e"]}, "asked for twice"),
        ({"targets": [True]}, "not True"),
        ({"targets": [Direction("short", torch.ones(3))]}, "should be 16 finite numbers"),
        ({"top_p": 0.0}, "top_p must be"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"position": 7}, "no position 7 in a prompt of 7"),
        ({"prompt": [[1, 2], [3, 4]]}, "one prompt, not 2"),
    ],
)
def test_what_cannot_be_meant_is_refused(options, message):
    with pytest.raises(AnalysisError, match=message):
        graph_of(clt(tiny()), **options)
