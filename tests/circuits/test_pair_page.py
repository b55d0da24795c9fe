"""Two graphs on one page: what stands there is what both graphs say, and what changed is told from what did not."""

import json
import re

import pytest
import torch

from chromium import PATH, Chromium
from circuit_models import PROMPT, clt, tiny
from crosscoders import attribution_graph, compare_graphs, save_pair
from crosscoders.circuits.compare import node_keys
from crosscoders.circuits.replacement import ReplacementModel


@pytest.fixture(scope="module")
def pair():
    moved = clt(tiny())
    with torch.no_grad():
        moved.b_enc_F.add_(torch.randn(moved.b_enc_F.shape, generator=torch.Generator().manual_seed(1)))
    return [
        attribution_graph(ReplacementModel(one, tiny()), PROMPT, progress=False, targets=[4, 9])
        for one in (clt(tiny()), moved)
    ]


@pytest.fixture(scope="module")
def page(pair, tmp_path_factory):
    names = ("base", "<b>tuned</b>")
    return save_pair(compare_graphs(*pair), tmp_path_factory.mktemp("pair") / "new" / "pair.html", names=names)


def data_of(page):
    text = page.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_edges_have_the_weights_of_both_whole_graphs(page, pair):
    data, keys = data_of(page), [node_keys(graph) for graph in pair]
    names = [{graph_id(graph, node): node for node in keys[i].values()} for i, graph in enumerate(pair)]
    pruned = [graph.prune().edges_MM for graph in pair]
    seen = set()
    for source, target, *weights in data["edges"]:
        ends = [data["nodes"][end]["node_id"] for end in (source, target)]
        kept = False
        for graph, ids, part, weight in zip(pair, names, pruned, weights):
            there = all(end in ids for end in ends)
            assert (weight is not None) == there
            if there:
                row, column = ids[ends[1]], ids[ends[0]]
                assert weight == pytest.approx(graph.edges_MM[row, column])
                kept |= part[row, column] != 0
        assert kept
        seen.add(tuple(ends))
    for graph, part in zip(pair, pruned):
        edges = part.tocoo()
        for target, source in zip(edges.row.tolist(), edges.col.tolist()):
            assert (graph_id(graph, source), graph_id(graph, target)) in seen
    assert any(None in weights for *_, first, second in data["edges"] for weights in [(first, second)])


def graph_id(graph, node):
    from crosscoders.circuits.graph_json import node_id

    return node_id(graph, node)


def test_nodes_say_whether_they_are_active(page, pair):
    latents = [{tuple(latent): i for i, latent in enumerate(graph.latent_n3.tolist())} for graph in pair]
    for node in data_of(page)["nodes"]:
        if node["feature_type"] == "cross layer transcoder":
            layer, index, position = map(int, node["node_id"].split("_"))
            for graph, places, (activation, influence) in zip(pair, latents, node["in"]):
                at = places.get((layer, position, index))
                assert (activation is None) == (at is None) == (influence is None)
                assert at is None or activation == pytest.approx(float(graph.value_n[at]))


@pytest.mark.skipif(PATH is None, reason="there is no Chromium here")
@pytest.mark.parametrize("size", [(1280, 900), (390, 800)])
def test_a_reader_sees_what_changed(page, size):
    data = data_of(page)
    largest = max(abs((second or 0) - (first or 0)) for *_, first, second in data["edges"])
    changed = sum(abs((second or 0) - (first or 0)) >= 0.3 * largest for *_, first, second in data["edges"])
    with Chromium(f"file://{page}", size=size) as tab:
        marked = 'document.querySelectorAll(\'svg[data-side="1"] .edge.up, svg[data-side="1"] .edge.down\').length'
        assert 0 < tab.eval(marked) == changed
        assert tab.eval("document.querySelectorAll('.node.missing').length") > 0
        # The table fits beside the graphs, and these use the height that there is.
        assert tab.eval("[...document.querySelectorAll('aside .scroll')].every((e) => e.scrollWidth <= e.clientWidth)")
        if size[0] > 760:
            share = "document.querySelector('svg').clientHeight / document.querySelector('.side').clientHeight"
            assert 0.5 < tab.eval(share) <= 1
        assert tab.eval("document.querySelectorAll('.side h2')[1].textContent") == "<b>tuned</b>"
        first = tab.eval("document.querySelector('#chosen td.number:last-child').textContent")
        assert abs(float(first.replace("−", "-"))) == pytest.approx(largest, rel=0.01)
        tab.eval(
            "(() => { const s = document.getElementById('change'); s.value = 1; "
            "s.dispatchEvent(new Event('input')); })()"
        )
        assert tab.eval(marked) >= 1 and tab.eval(marked) < changed
        tab.eval(
            "document.querySelector('svg[data-side=\"0\"] .node.logit')"
            ".dispatchEvent(new MouseEvent('click', {bubbles: true}))"
        )
        tab.wait("document.querySelectorAll('.node.chosen').length === 2")
        assert "influence" in tab.eval("document.getElementById('chosen').textContent")
        tab.key("Escape")
        tab.wait("!document.querySelector('.node.chosen')")
        assert tab.eval("document.documentElement.scrollWidth <= window.innerWidth")
        assert [url for url in tab.requests() if not url.startswith(("file:", "about:", "blob:"))] == []
        assert tab.complaints() == []
