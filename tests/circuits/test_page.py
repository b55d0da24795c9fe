"""The page of a graph: what is in its file, and how it behaves in a browser, where there is one."""

import base64
import hashlib
import json
import re
from xml.etree import ElementTree

import pytest
import torch

from chromium import PATH, Chromium
from circuit_models import PROMPT, clt, tiny
from crosscoders import AnalysisError, attribution_graph, graph_fidelity, save_graph
from crosscoders.circuits.graph import AttributionGraph, GraphTarget
from crosscoders.circuits.graph_files import graph_page
from crosscoders.circuits.graph_rules import cantor
from crosscoders.circuits.replacement import ReplacementModel

EVIL = '</script><script>window.evil=1</script><img src=x onerror="window.evil=1">'


@pytest.fixture(scope="module")
def made():
    model = ReplacementModel(clt(tiny()), tiny())
    graph = attribution_graph(model, PROMPT, progress=False)
    return model, graph


@pytest.fixture(scope="module")
def page(made, tmp_path_factory):
    model, graph = made
    folder = tmp_path_factory.mktemp("page")
    checked = graph_fidelity(model, graph, top=3)
    layer, _, index = graph.pruned().latent_n3[0].tolist()
    save_graph(
        graph, folder, checked=checked, fidelity=model.fidelity(PROMPT), labels={(layer, index): "my " + EVIL}, scan="m"
    )
    return folder / "graph.html"


def test_the_file_asks_for_nothing_and_lets_only_its_own_script_run(page):
    text = page.read_text(encoding="utf-8")
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "") and "https://" not in text
    assert not re.search(r"<(?:link|iframe|img|object)\b|@import|url\(", text)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    for tag, key in (("script", "script-src"), ("style", "style-src")):
        body = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert len(body) == 1
        digest = base64.b64encode(hashlib.sha256(body[0].encode()).digest()).decode()
        assert f"{key} 'sha256-{digest}'" in policy
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1]
    assert "<" not in data and EVIL in json.dumps(json.loads(data)).replace('\\"', '"')
    assert EVIL not in text


def test_a_model_of_one_layer_has_a_page_but_no_other_file(tmp_path):
    from circuit_models import transcoder

    adapter = tiny(layers=1)
    graph = attribution_graph(ReplacementModel(transcoder(adapter, 0), adapter), PROMPT, progress=False)
    said = []
    written = save_graph(graph, tmp_path, say=said.append)
    assert [path.name for path in written] == ["graph", "graph.html"]
    assert "no neuronpedia.json" in said[0] and "layer of 1 or more" in said[0]


browser = pytest.mark.skipif(PATH is None, reason="there is no Chromium here")


@browser
def test_a_reader_finds_their_way(page, made):
    """Choosing, the lists beside it, pins, groups, search, the slider and the keys; nothing is asked of a server."""
    graph = made[1].pruned()
    with Chromium(f"file://{page}") as tab:
        count = len(json.loads(tab.eval("document.getElementById('data').textContent"))["nodes"])
        assert tab.eval("document.querySelectorAll('.node').length") == count
        # Choose a logit: what makes it is what the graph says.
        tab.click(".node.logit")
        tab.wait("document.querySelector('.node.chosen')")
        target = tab.eval("document.querySelector('.node.chosen').dataset.id")
        first = tab.eval("document.querySelector('#chosen td.number').textContent")
        row = next(n for n in range(graph.num_nodes) if _id(graph, n) == target)
        strongest = max(graph.edges_MM.getrow(row).data, key=abs)
        assert float(first.replace("−", "-")) == pytest.approx(strongest, rel=0.01)
        # Pin it, go to its strongest source, pin that too, group them.
        tab.click("#pin")
        tab.click("#chosen td .link")
        tab.wait(f"document.querySelector('.node.chosen').dataset.id !== {json.dumps(target)}")
        tab.eval("document.activeElement.blur()")
        tab.key("p")
        tab.wait("document.querySelectorAll('.node.pinned').length === 2")
        tab.eval("window.prompt = () => 'my group'")
        tab.click("#group")
        tab.wait("document.getElementById('pinned').textContent.includes('my group (2 nodes)')")
        kept = tab.eval("JSON.stringify(window.graphPage.current().qParams)")
        assert json.loads(kept)["supernodes"][0][0] == "my group" and len(json.loads(kept)["pinnedIds"]) == 2
        # Search by a label; its text is text.
        tab.key("/")
        tab.wait("document.activeElement.id === 'search'")
        tab.type("zzz")
        tab.wait("document.querySelectorAll('.node.found').length === 0")
        tab.eval("document.getElementById('search').value = ''")
        tab.type("my ")
        tab.wait("document.querySelectorAll('.node.found').length > 0")
        found = tab.eval("document.querySelectorAll('.node.found').length")
        assert tab.eval("document.getElementById('hits').textContent") == f"{found} found"
        tab.key("Enter", "\r")
        tab.wait("document.querySelector('#label')")
        assert tab.eval("document.querySelector('#label').value") == "my " + EVIL
        assert tab.eval("window.evil") is None
        # A new label is kept, also after the page is opened again.
        relabel(tab, "renamed")
        tab.key("Escape")
        tab.wait("!document.querySelector('.node.chosen')")
        # The keys go from node to node.
        tab.key("ArrowDown")
        one = tab.wait("document.activeElement.dataset && document.activeElement.dataset.id")
        tab.key("ArrowRight")
        tab.key("Enter", "\r")
        tab.wait("document.querySelector('.node.chosen')")
        assert tab.eval("document.querySelector('.node.chosen').dataset.id") and one
        # The slider leaves less.
        everything = tab.eval("[...document.querySelectorAll('.node')].filter((n) => n.style.display === '').length")
        tab.eval(
            "(() => { const s = document.getElementById('slider'); s.value = 0.3; "
            "s.dispatchEvent(new Event('input')); })()"
        )
        less = tab.eval("[...document.querySelectorAll('.node')].filter((n) => n.style.display === '').length")
        assert less < everything
        tab.call("Page.reload")
        tab.wait("document.readyState === 'complete' && document.documentElement?.dataset.ready")
        assert "renamed" in labels(tab)
        assert tab.eval("document.querySelectorAll('.node.pinned').length") == 2
        assert [url for url in tab.requests() if not url.startswith(("file:", "about:", "blob:"))] == []
        assert tab.complaints() == []


def relabel(tab, text):
    """Type another label for the chosen node, and stay in the field."""
    tab.wait("document.querySelector('#label')")
    tab.eval("document.querySelector('#label').focus(), document.querySelector('#label').select()")
    tab.type(text)


def labels(tab):
    return tab.eval("window.graphPage.current().nodes.map((n) => n.clerp)")


@browser
def test_what_a_reader_did_is_kept_at_once_and_in_every_tab(page):
    """A label is there again though its field was never left, and what another tab keeps is not undone."""
    with Chromium(f"file://{page}") as tab:
        tab.click(".node.latent")
        relabel(tab, "typed")
        assert "typed" in tab.eval("JSON.stringify(localStorage)")
        tab.call("Page.reload")
        tab.wait("document.readyState === 'complete' && document.documentElement?.dataset.ready")
        assert "typed" in labels(tab)
        first = tab.open(f"file://{page}")
        tab.click(".node.logit")
        tab.click("#pin")
        tab.click(".node.latent")
        relabel(tab, "elsewhere")
        second = tab.session
        tab.switch(first)
        tab.wait("document.querySelector('.node.pinned')")
        tab.wait("window.graphPage.current().nodes.some((n) => n.clerp === 'elsewhere')")
        # A change here leaves what came from there as it is.
        tab.eval("document.getElementById('slider').value = 0.5")
        tab.eval("document.getElementById('slider').dispatchEvent(new Event('input'))")
        tab.switch(second)
        tab.wait("document.getElementById('slider').value === '0.5'")
        tab.key("Escape")
        tab.wait("!document.querySelector('.node.chosen')")
        assert "elsewhere" in labels(tab) and tab.eval("document.querySelectorAll('.node.pinned').length") == 1
        assert tab.complaints() == []


def _id(graph, node):
    from crosscoders.circuits.graph_json import node_id

    return node_id(graph, node)


@browser
def test_a_large_graph_is_drawn_at_once(tmp_path):
    """1,500 latents and 10,000 edges: a few hundred milliseconds on a slow machine are far below what is allowed."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.stack([torch.randint(high, (1500,), generator=generator) for high in (12, 24, 4096)], dim=1).unique(
        dim=0
    )
    order = sorted(latents.tolist())
    count, length = len(order), 24
    from scipy import sparse

    size = count + 13 * length + 5
    source = torch.randint(count, (20_000,), generator=generator)
    target = torch.randint(count, (20_000,), generator=generator)
    layer = torch.tensor(order)[:, 0]
    forward = layer[source] < layer[target]
    source, target = source[forward], target[forward]
    words = size - 5 - length + torch.tensor(order)[:, 1]
    rows = torch.cat([target, torch.arange(count), torch.arange(size - 5, size).repeat_interleave(200)])
    columns = torch.cat([source, words, torch.randint(count, (1000,), generator=generator)])
    weights = torch.randn(len(rows), generator=generator).numpy()
    graph = AttributionGraph(
        ids=list(range(length)),
        texts=[f" word{i}" for i in range(length)],
        cuts=[f"layers.{i}.mlp" for i in range(12)],
        latent_n3=torch.tensor(order),
        value_n=torch.ones(count),
        targets=[GraphTarget(f"t{k}", "token", 0.2, k) for k in range(5)],
        target_KD=torch.zeros(5, 0),
        position=23,
        edges_MM=sparse.csr_matrix((weights, (rows, columns)), shape=(size, size)),
        constant_M=torch.zeros(size),
        left_out_M=torch.zeros(size),
        total_M=torch.zeros(size),
        num_layers=12,
        vocabulary_size=50,
        num_active=count,
    )
    (tmp_path / "large.html").write_text(graph_page(graph, node_threshold=1.0, edge_threshold=1.0), encoding="utf-8")
    with Chromium(f"file://{tmp_path / 'large.html'}", size=(420, 900)) as tab:
        assert tab.eval("document.querySelectorAll('.node.latent').length") > 1000
        assert float(tab.eval("document.documentElement.dataset.ready")) < 5000
        assert tab.eval("document.documentElement.scrollWidth <= window.innerWidth")
        # What is explained is in sight, and so are the names of layers, wherever the graph is scrolled to.
        left = "document.querySelector('{}').getBoundingClientRect().left"
        assert 0 < tab.eval(left.format(".node.logit")) < 420
        tab.wait(f"{left.format('.layer')} >= 0 && {left.format('.layer')} < 20")
        assert tab.eval("document.getElementById('graph').scrollLeft") > 420
        assert tab.complaints() == []


@browser
def test_the_picture_needs_nothing_of_the_page(page):
    """Other programs show it: its colours are plain ones, what is hidden is not in it, and edges are."""
    with Chromium(f"file://{page}", size=(390, 844)) as tab:
        tab.eval(
            "URL.createObjectURL = (blob) => { blob.text().then((text) => { window.saved = text; }); return '#'; }"
        )
        tab.eval("document.getElementById('slider').value = 0.5")
        tab.eval("document.getElementById('slider').dispatchEvent(new Event('input'))")
        shown = tab.eval("[...document.querySelectorAll('.node')].filter((n) => n.style.display === '').length")
        tab.eval("document.getElementById('picture').click()")
        picture = ElementTree.fromstring(tab.wait("window.saved"))
        assert tab.complaints() == []
    svg = "{http://www.w3.org/2000/svg}"
    style = picture.find(f"{svg}style").text
    assert ".latent .mark { fill: #5b7fa6; }" in style and "path.plus { stroke: #1c7c84; }" in style
    assert "svg { background: #fafaf8" in style
    groups = [one.get("class", "") for one in picture.iter(f"{svg}g")]
    assert shown == sum(one.startswith("node ") for one in groups) < len(nodes_in(page))
    assert sum(one.get("class") in ("plus", "minus") for one in picture.iter(f"{svg}path")) > 5
    assert not any(one.get("transform") for one in picture.iter(f"{svg}text"))


def nodes_in(page):
    data = re.search(r'id="data">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)[1]
    return json.loads(data)["nodes"]


@browser
def test_what_a_latent_responds_to_stands_beside_it(made, tmp_path):
    graph = made[1].pruned()
    layer, _, index = graph.latent_n3[0].tolist()
    example = {"tokens": ["a", EVIL, "\n"], "tokens_acts_list": [0.0, 2.0, 1.0]}
    others = [{"tokens": [f"{n}"], "tokens_acts_list": [1.0]} for n in range(3)]
    content = {
        "index": index,
        "examples_quantiles": [{"quantile_name": "Top activations", "examples": [example, example, *others]}],
        "top_logits": [EVIL],
    }
    (tmp_path / f"{cantor(layer, index)}.json").write_text(json.dumps(content))
    (tmp_path / "graph.html").write_text(graph_page(made[1], features=tmp_path), encoding="utf-8")
    with Chromium(f"file://{tmp_path / 'graph.html'}") as tab:
        tab.click(f'.node.latent[data-id^="{layer}_{index}_"]')
        tab.wait("document.querySelector('.context')")
        assert tab.eval("document.querySelector('.context').textContent") == f"a{EVIL}⏎"
        # What is said twice is shown once, and what is beyond the first two on a click.
        shown = "[...document.querySelectorAll('#chosen .context')].filter((e) => e.checkVisibility()).length"
        assert tab.eval(shown) == 2 and tab.eval("document.querySelector('summary').textContent") == "2 more"
        tab.click("summary")
        assert tab.eval(shown) == 4
        marked = "[...document.querySelector('.context').children].map((span) => span.classList.contains('on'))"
        assert tab.eval(marked) == [False, True, True]
        assert "promotes" in tab.eval("document.getElementById('chosen').textContent")
        assert not tab.eval("window.evil") and tab.complaints() == []
    content["examples_quantiles"][0]["examples"][0]["tokens"].pop()
    (tmp_path / f"{cantor(layer, index)}.json").write_text(json.dumps(content))
    with pytest.raises(AnalysisError, match="2 tokens and 3 activations"):
        graph_page(made[1], features=tmp_path)


@browser
def test_the_page_follows_the_system_into_the_dark_and_fits_a_phone(page):
    with Chromium(f"file://{page}", size=(390, 844)) as tab:
        paper = "getComputedStyle(document.body).backgroundColor"
        assert tab.eval("document.documentElement.scrollWidth") <= 390
        light = tab.eval(paper)
        tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
        dark = tab.eval(paper)
        assert light != dark
        for want in (light, dark, dark):  # light, dark, and again as the system has it
            tab.click("#theme")
            assert tab.eval(paper) == want
        assert tab.complaints() == []
