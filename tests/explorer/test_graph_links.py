"""Latents on a graph's page in a dashboard link to their pages there, and nowhere else."""

import functools
import http.server
import json
import re
import threading

import pytest
import torch

from chromium import PATH, Chromium
from circuit_models import PROMPT, clt, models, randomised, tiny
from crosscoders import ActivationConfig, AnalysisError, Study, Text, attribution_graph, save_graph, write_dashboard
from crosscoders.checkpoints.tensors import tensors_fingerprint
from crosscoders.circuits.graph_json import graph_to_json
from crosscoders.circuits.numbering import numbers_of
from crosscoders.circuits.replacement import ReplacementModel
from crosscoders.explorer.choosing import LatentDetail


class Texts:
    """Documents of letters."""

    def documents(self, *, skip=0):
        for number in range(skip, 20):
            order = torch.randint(3, 26, (12,), generator=torch.Generator().manual_seed(number))
            yield Text("".join(chr(97 + i) for i in order.tolist()))


def study_of(crosscoder):
    config = ActivationConfig(context_length=12, held_out_share=0.0, rows_per_forward=8)
    return Study(crosscoder, {"m": tiny()}, Texts(), activations=config, num_tokens=120)


@pytest.fixture(scope="module")
def made():
    crosscoder = clt(tiny())
    return crosscoder, attribution_graph(ReplacementModel(crosscoder, tiny()), PROMPT, progress=False)


@pytest.fixture(scope="module")
def dashboard(made, tmp_path_factory):
    """Of all latents of layers 0 and 1, and of the first of layer 2, with a graph by them and one by others."""
    folder = tmp_path_factory.mktemp("linked")
    crosscoder, graph = made
    save_graph(graph, folder / "own", scan="m", node_threshold=1.0)
    other = randomised(clt(tiny()), seed=5)
    save_graph(attribution_graph(ReplacementModel(other, tiny()), PROMPT, progress=False), folder / "other", scan="m")
    write_dashboard(
        study_of(crosscoder),
        folder / "dashboard",
        latents=range(25),
        graphs=[folder / "own", folder / "other"],
        detail=LatentDetail(top=2, per_range=1, shares=0, neighbours=2),
    )
    return folder


def data_of(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)[1])


@pytest.mark.parametrize("name", ["clt", "attention too", "mixed, one layer left out"])
def test_numbers_are_those_of_the_latents_that_fire(name):
    """Latents of several groups that read one layer, and of several crosscoders, are told apart."""
    crosscoders = models(name)
    crosscoders = crosscoders if isinstance(crosscoders, list) else [crosscoders]
    replacement = ReplacementModel(crosscoders, tiny())
    graph = attribution_graph(replacement, PROMPT, progress=False)
    content = graph_to_json(graph, slug="s", scan="m", whole=True, check=False)
    tokens = replacement.row(PROMPT)
    there = {tuple(latent): float(value) for latent, value in zip(graph.latent_n3.tolist(), graph.value_n)}
    told = set()
    for crosscoder in crosscoders:
        x = tiny().activations(tokens, [site.point for site in crosscoder.sites])
        x = {site.name: x[site.point][0] for site in crosscoder.sites}
        f_TF = crosscoder.encode(x).dense().detach()
        numbers = numbers_of(content, tensors_fingerprint(crosscoder.state_dict()))
        for (layer, position, index), value in there.items():
            if f"{layer}_{index}" in numbers:
                told.add((layer, position, index))
                assert float(f_TF[position, numbers[f"{layer}_{index}"]]) == pytest.approx(value, rel=1e-4)
    assert told == set(there) and len(set(there.values())) > 10
    assert numbers_of(content, "0" * 16) == {}
    content["metadata"]["crosscoders"]["record"]["crosscoders"] = [{"fingerprint": "0" * 16, "latents": [[0, "0", 9]]}]
    assert numbers_of(content, "0" * 16) == {}


def test_a_fingerprint_tells_crosscoders_apart():
    first = clt(tiny()).state_dict()
    assert tensors_fingerprint(first) == tensors_fingerprint(clt(tiny()).state_dict())
    others = [clt(tiny(), seed=1).state_dict(), {**first, "b_enc_F": first["b_enc_F"].double()}]
    changed = {**first, "scale": torch.ones(1)}
    found = {tensors_fingerprint(one) for one in (first, *others, changed, {"scale": torch.ones(0)})}
    assert len(found) == 5


def test_only_latents_that_the_dashboard_shows_are_linked(dashboard):
    own, other = (dashboard / "dashboard" / "graphs" / f"graph-{number}.html" for number in (1, 2))
    linked = data_of(own)["metadata"]["crosscoders"]["dashboard"]["latents"]
    latents = {node["node_id"].rpartition("_")[0] for node in data_of(own)["nodes"] if node["activation"] is not None}
    # 36 latents, 12 of each layer.
    expected = {key: 12 * int(key[0]) + int(key[2:]) for key in latents}
    assert linked == {key: number for key, number in expected.items() if number < 25}
    assert 5 < len(linked) < len(latents)
    assert data_of(other)["metadata"]["crosscoders"]["dashboard"]["latents"] == {}
    assert "dashboard" not in data_of(dashboard / "own" / "graph.html")["metadata"]["crosscoders"]


def test_a_page_with_a_damaged_graph_is_refused(dashboard, made, tmp_path):
    page = dashboard / "own" / "graph.html"
    (tmp_path / "graph").mkdir()
    damaged = page.read_text(encoding="utf-8").replace('"node_id"', '"node"')
    (tmp_path / "graph" / "graph.html").write_text(damaged, encoding="utf-8")
    with pytest.raises(AnalysisError, match="not valid"):
        write_dashboard(study_of(made[0]), tmp_path / "x", graphs=[tmp_path / "graph"])


@pytest.fixture
def served(dashboard):
    """The dashboard below a path of a server."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=dashboard)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.skipif(PATH is None, reason="there is no Chromium here")
@pytest.mark.parametrize("from_disk", [True, False], ids=["from a disk", "served"])
def test_a_click_leads_to_the_latent(dashboard, served, from_disk):
    root = f"file://{dashboard}" if from_disk else served
    linked = data_of(dashboard / "dashboard" / "graphs" / "graph-1.html")["metadata"]["crosscoders"]["dashboard"]
    key, number = next((key, number) for key, number in linked["latents"].items() if key.startswith("1_"))
    with Chromium(f"{root}/dashboard/index.html#/graphs") as tab:
        tab.wait("document.querySelector('.graph-list a')")
        tab.click(".graph-list a")
        tab.wait("document.documentElement?.dataset.ready && document.querySelector('.node')")
        tab.click(f'.node[data-id^="{key}_"]')
        tab.wait("document.querySelector('#in-dashboard')")
        assert tab.eval("document.querySelector('#in-dashboard').textContent") == f"Latent {number} in the dashboard"
        if from_disk:
            tab.click("#in-dashboard")
        else:
            tab.eval("document.querySelector('#in-dashboard').focus()")
            tab.key("Enter", "\r")
        tab.wait(f"document.querySelector('h1')?.textContent === 'Latent {number}'")
        assert tab.eval("document.querySelector('.page.latent').dataset.latent") == str(number)
        # Back on the graph, the latent is still chosen; nodes that are no latents, and latents left out, have no link.
        tab.eval("history.back()")
        tab.wait("document.querySelector('#in-dashboard')")
        assert tab.eval("document.querySelector('.node.chosen').dataset.id").startswith(f"{key}_")
        left_out = "!graphPage.current().metadata.crosscoders.dashboard.latents[n.dataset.id.replace(/_\\d+$/, '')]"
        tab.eval(f"[...document.querySelectorAll('.node.latent')].find((n) => {left_out}).id = 'left-out'")
        for selector in ("#left-out", ".node.logit"):
            tab.click(selector)
            tab.wait(f"document.querySelector('{selector}').classList.contains('chosen')")
            assert not tab.eval("Boolean(document.querySelector('#in-dashboard'))")
        tab.click(".tools a")
        tab.wait("document.querySelector('.graph-list a')")
        assert tab.complaints() == []
    for page in ("dashboard/graphs/graph-2.html", "own/graph.html"):
        with Chromium(f"{root}/{page}") as tab:
            tab.click(".node.latent")
            tab.wait("document.querySelector('#label')")
            assert not tab.eval("Boolean(document.querySelector('#in-dashboard'))")
            assert tab.eval("Boolean(document.querySelector('.tools a'))") == page.startswith("dashboard")
