"""Groups of nodes: what a graph says of changing one, what happens, and what its page says and keeps of it."""

import json
import re

import numpy as np
import pytest

from chromium import PATH, Chromium
from circuit_models import PROMPT, clt, tiny
from crosscoders import (
    AnalysisError,
    Group,
    Intervention,
    attribution_graph,
    intervene,
    intervene_on_group,
    read_graph_json,
    read_groups,
    save_graph,
    write_effects,
)
from crosscoders.circuits.graph_fidelity import total_effects
from crosscoders.circuits.graph_files import graph_page
from crosscoders.circuits.graph_json import graph_to_json, node_id
from crosscoders.circuits.groups import group_called, group_effects
from crosscoders.circuits.replacement import ReplacementModel

LABEL = 'it\'s <b>"mine"</b>'


@pytest.fixture(scope="module")
def made():
    model = ReplacementModel(clt(tiny()), tiny())
    return model, attribution_graph(model, PROMPT, progress=False, targets=[4, 9])


def chained(graph):
    """Latents of two layers of which the first feeds the second and that the targets, and one of the last layer."""
    layer, count = graph.latent_n3[:, 0], graph.num_latents
    edges = graph.edges_MM[:count, :count].tocoo()
    to_targets = np.abs(graph.edges_MM[graph.logits, :count].toarray()).sum(axis=0)
    size = np.abs(edges.data) / graph.value_n.numpy()[edges.row] * to_targets[edges.row]
    size[~((layer[edges.col] == 0) & (layer[edges.row] == 1)).numpy()] = 0
    best = int(size.argmax())
    return [int(edges.col[best]), int(edges.row[best]), int((layer == 2).nonzero()[0])]


def test_one_latent_is_what_ablating_it_says(made):
    graph = made[1]
    for node in (0, 5, graph.num_latents - 1):
        direct_K, total_K = group_effects(graph, [node])
        np.testing.assert_allclose(total_K, total_effects(graph, [node])[0], rtol=1e-9)
        np.testing.assert_allclose(direct_K, -graph.edges_MM[graph.logits, node].toarray()[:, 0], rtol=1e-6)


@pytest.mark.parametrize("change", ["ablate", ("scale", 2.5), ("clamp", 0.7), ("add", 0.3), 0.3])
def test_several_together_by_hand(made, change):
    """Latents in the order of layers, each with what reaches it, and the changed ones as the change has it."""
    graph, nodes = made[1], chained(made[1])
    edges, f = graph.edges_MM.toarray().astype(float), graph.value_n.double().numpy()
    moved = np.zeros(graph.num_latents)
    for layer in range(3):
        for node in np.flatnonzero((graph.latent_n3[:, 0] == layer).numpy()):
            value = f[node] + edges[node, : graph.num_latents] @ moved
            if node in nodes:
                kind, number = (
                    ("ablate", 0) if change == "ablate" else change if isinstance(change, tuple) else ("add", change)
                )
                value = {"ablate": 0, "scale": number * value, "clamp": number, "add": value + number}[kind]
            moved[node] = (value - f[node]) / f[node]
    direct_K, total_K = group_effects(graph, nodes, change)
    targets = edges[graph.logits, : graph.num_latents]
    np.testing.assert_allclose(total_K, targets @ moved, rtol=1e-6)
    alone = [group_effects(graph, [node], change)[0] for node in nodes]
    np.testing.assert_allclose(direct_K, np.sum(alone, axis=0), rtol=1e-9)
    if change == "ablate":
        assert np.abs(total_K - np.sum([group_effects(graph, [n])[1] for n in nodes], axis=0)).max() > 1e-4


def test_what_is_seen_is_what_the_model_does(made):
    model, graph = made
    nodes = chained(graph)
    group = Group("mine", [tuple(graph.latent_n3[node].tolist()) for node in nodes])
    assert group.nodes(graph) == nodes
    effect = intervene_on_group(model, graph, group)
    changes = [Intervention(layer, index, "ablate", position) for layer, position, index in group.latents]
    after = intervene(model, PROMPT, changes)
    readout = tiny().readout()
    final = (after.values["final"] - after.clean["final"])[-1]
    for k, token in enumerate((4, 9)):
        expected = (readout.weight_VD[token].float() - readout.weight_VD.float().mean(dim=0)) @ final
        assert effect.observed_K[k] == pytest.approx(float(expected), abs=1e-4)
    free = intervene(model, PROMPT, changes, hold_attention=False)
    assert effect.after_K[0] == pytest.approx(float(free.logits_TV[-1].softmax(0)[4]), abs=1e-6)
    assert effect.before_K[0] == pytest.approx(float(free.clean_TV[-1].softmax(0)[4]), abs=1e-6)
    # With everything held, the group's own edges are exact.
    direct = intervene(model, PROMPT, changes, mode="direct")
    step = (direct.values["final"] - direct.clean["final"])[-1]
    np.testing.assert_allclose((graph.target_KD @ step).numpy(), effect.direct_K, rtol=1e-4, atol=1e-5)
    assert "3 latents: ablate" in effect.table().title and len(effect.table().rows) == 2


def exported(graph, nodes, label=LABEL):
    """What the page exports: the pruned graph with a group, here of all that is asked for."""
    content = graph_to_json(graph, slug="graph", scan="m", whole=True, check=False)
    content["qParams"]["supernodes"] = [[label, *(node_id(graph, node) for node in nodes)]]
    return content


def test_groups_are_read_from_what_the_page_exports(made, tmp_path):
    graph, nodes = made[1], chained(made[1])
    content = exported(graph, [*nodes, graph.errors.start, graph.embeddings.start, graph.logits.start])
    (tmp_path / "graph.json").write_text(json.dumps(content))
    [group] = read_groups(tmp_path / "graph.json")
    assert group.label == LABEL and group.nodes(graph) == nodes  # a logit's id looks like a latent's, and is none
    assert group_called([group, Group("other", [(0, 1, 2)])], LABEL) is group
    for label, message in (("none", "not 0; there are: .*mine"), ("empty", "has no latents")):
        with pytest.raises(AnalysisError, match=message):
            group_called([group, Group("empty", [])], label)
    with pytest.raises(AnalysisError, match="latent 0/999 at 1, which the graph does not have"):
        Group("x", [(0, 1, 999)]).nodes(graph)
    with pytest.raises(AnalysisError, match="no file"):
        read_groups(tmp_path / "none.json")
    with pytest.raises(AnalysisError, match="qParams is missing"):
        read_groups({"metadata": {}})


def test_the_whole_graph_is_exported_and_read_back(made):
    graph = made[1]
    again = read_graph_json(graph_to_json(graph, slug="s", scan="m", whole=True))
    assert (again.edges_MM != graph.edges_MM).nnz == 0 and again.num_latents == graph.num_latents
    assert again.gap() < 1e-6 and graph.pruned().num_latents < graph.num_latents


def test_results_are_written_into_the_page(made, tmp_path):
    model, graph = made
    save_graph(graph, tmp_path, scan="m")
    page = tmp_path / "graph.html"
    shown = graph.pruned()
    group = Group(LABEL, [tuple(latent) for latent in shown.latent_n3[:2].tolist()])
    before = page.read_text(encoding="utf-8")
    for change in ("ablate", ("scale", 2.0), "ablate"):
        write_effects(page, [intervene_on_group(model, graph, group, change)])
    text = page.read_text(encoding="utf-8")
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    measured = data["metadata"]["crosscoders"]["measured"]
    assert [one["change"] for one in measured] == ["scale 2", "ablate"]
    assert [one[0] for one in data["qParams"]["supernodes"]] == [LABEL]
    assert "<b>" not in text and text.split('id="data">')[0] == before.split('id="data">')[0]
    assert {row["target"] for row in measured[0]["targets"]} == {target.label for target in graph.targets}
    gone = next(latent for latent in graph.latent_n3.tolist() if latent not in shown.latent_n3.tolist())
    with pytest.raises(AnalysisError, match="shows none of the latents"):
        write_effects(page, [intervene_on_group(model, graph, Group("gone", [tuple(gone)]))])
    (tmp_path / "other.html").write_text("<p>hello")
    with pytest.raises(AnalysisError, match="is not the page of a graph"):
        write_effects(tmp_path / "other.html", [])
    with pytest.raises(AnalysisError, match="there is no page"):
        write_effects(tmp_path / "none.html", [])


@pytest.mark.skipif(PATH is None, reason="there is no Chromium here")
def test_a_group_on_the_page(made, tmp_path):
    """As one node with summed edges, with what the graph says of ablating it, the command for it, and what it did."""
    model, graph = made
    page, whole = tmp_path / "graph.html", graph.pruned(node_threshold=1.0, edge_threshold=1.0)
    page.write_text(graph_page(graph, node_threshold=1.0, edge_threshold=1.0), encoding="utf-8")
    nodes = chained(whole)
    ids = [node_id(whole, node) for node in nodes]
    with Chromium(f"file://{page}") as tab:
        for name in ids:
            tab.click(f'.node[data-id="{name}"]')
            tab.click("#pin")
        tab.eval(f"window.prompt = () => {json.dumps(LABEL)}")
        tab.click("#group")
        tab.wait("document.querySelector('.command')")
        quoted = "'it'\\''s <b>\"mine\"</b>'"
        assert tab.eval("document.querySelector('.command').textContent") == (
            f"crosscoders intervene CROSSCODER --graph FOLDER --groups graph.json --group {quoted} --ablate"
        )
        rows = json.loads(
            tab.eval(
                "JSON.stringify([...document.querySelectorAll('#chosen table')[0].querySelectorAll('tbody tr')]"
                ".map((row) => [...row.children].map((cell) => cell.textContent)))"
            )
        )
        direct_K, total_K = group_effects(whole, nodes)
        for row, direct, total in zip(rows, direct_K, total_K, strict=True):
            numbers = [float(text.replace("−", "-")) for text in row[1:]]
            assert numbers == pytest.approx([direct, total], rel=0.01, abs=1e-4)
        # As one node: its members are hidden, and edges in and out are sums.
        tab.click("#as-one")
        tab.wait("document.querySelector('.node.group')")
        hidden = [f"document.querySelector('.node[data-id=\"{name}\"]').style.display" for name in ids]
        assert [tab.eval(one) for one in hidden] == ["none"] * 3
        inside = np.zeros(whole.num_nodes, bool)
        inside[nodes] = True
        summed = whole.edges_MM[nodes][:, ~inside].sum(axis=0)
        strongest = float(np.asarray(summed).ravel()[np.abs(summed).argmax()])
        first = tab.eval(
            "[...document.querySelectorAll('#chosen table')].at(-2).querySelector('td.number').textContent"
        )
        assert float(first) == pytest.approx(strongest, rel=0.01)
        taken = json.loads(tab.eval("JSON.stringify(window.graphPage.current())"))
        tab.eval("document.getElementById('as-one').click()")
        tab.wait("!document.querySelector('.node.group')")
        assert [tab.eval(one) for one in hidden] == [""] * 3
        # All of it can be taken along.
        tab.eval(
            "URL.createObjectURL = (blob) => { blob.text().then((text) => { window.saved = text; }); return '#'; }"
        )
        tab.eval("document.getElementById('whole-json').click()")
        everything = json.loads(tab.wait("window.saved"))
        assert tab.complaints() == []
    assert (read_graph_json(everything).edges_MM != graph.edges_MM).nnz == 0
    [group] = read_groups(taken)
    assert group.nodes(whole) == nodes
    write_effects(page, [intervene_on_group(model, graph, group)])
    with Chromium(f"file://{page}#group:{LABEL}") as tab:
        text = tab.wait(
            "document.getElementById('chosen').textContent.includes('What it did in the model: ablate') && "
            "document.getElementById('chosen').textContent"
        )
        assert "p before" in text and not tab.eval("document.querySelector('#chosen b')")
        fits = "[...document.querySelectorAll('aside .scroll')].every((e) => e.scrollWidth <= e.clientWidth)"
        assert tab.eval(fits)
        assert tab.complaints() == []
