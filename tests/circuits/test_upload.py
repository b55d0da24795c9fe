"""Uploading a graph, to a local server that applies the site's rules."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from click.testing import CliRunner

from circuit_models import PROMPT, clt, tiny
from crosscoders import AnalysisError, attribution_graph, upload_graph
from crosscoders.circuits.graph_json import graph_to_json
from crosscoders.circuits.graph_rules import graph_problems
from crosscoders.circuits.replacement import ReplacementModel
from crosscoders.cli import main


class Site(BaseHTTPRequestHandler):
    """What the site does with the three requests, and what it refuses."""

    places, stored, taken, elsewhere = {}, {}, set(), ""

    def answer(self, status, content=None):
        body = json.dumps(content or {}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self):
        return self.rfile.read(int(self.headers["Content-Length"]))

    def do_POST(self):
        asked = json.loads(self.body())
        if self.headers.get("x-api-key") != "secret":
            return self.answer(401, {"error": "no such key"})
        if self.path == "/api/graph/signed-put":
            if not asked["filename"].endswith(".json") or not 1024 <= asked["contentLength"] <= 100 * 2**20:
                return self.answer(400, {"error": "size"})
            number = str(len(self.places))
            self.places[number] = [asked["contentLength"], None]
            port = self.server.server_address[1]
            url = self.elsewhere or f"http://127.0.0.1:{port}/put/{number}"
            return self.answer(200, {"url": url, "key": "k", "putRequestId": number})
        length, content = self.places[asked["putRequestId"]]
        if content is None or len(content) != length or graph_problems(json.loads(content)):
            return self.answer(400, {"error": "not what was announced"})
        slug = json.loads(content)["metadata"]["slug"]
        if slug in self.taken:
            return self.answer(403, {"error": "this slug is another user's"})
        self.stored[slug] = json.loads(content)
        return self.answer(200, {"message": "saved"})

    def do_PUT(self):
        assert "x-api-key" not in self.headers
        self.places[self.path.rpartition("/")[2]][1] = self.body()
        self.answer(200)

    def log_message(self, *_):
        pass


@pytest.fixture
def site():
    Site.places, Site.stored, Site.taken, Site.elsewhere = {}, {}, set(), ""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def content():
    graph = attribution_graph(ReplacementModel(clt(tiny()), tiny()), PROMPT, progress=False)
    return graph_to_json(graph, slug="my-graph", scan="tiny")


def test_a_graph_is_put_where_the_site_says_and_stored(site, content, tmp_path, monkeypatch):
    assert upload_graph(content, api_key="secret", site=site) == f"{site}/tiny/graph?slug=my-graph"
    assert Site.stored["my-graph"] == content
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(content))
    monkeypatch.setenv("NEURONPEDIA_API_KEY", "secret")
    result = CliRunner().invoke(main, ["upload-graph", str(path), "--site", site])
    assert result.exit_code == 0 and result.output.strip() == f"{site}/tiny/graph?slug=my-graph"


def test_what_the_site_refuses_is_said_without_the_key(site, content):
    Site.taken.add("my-graph")
    with pytest.raises(AnalysisError, match="403.*another user's"):
        upload_graph(content, api_key="secret", site=site)
    with pytest.raises(AnalysisError, match="401") as refused:
        upload_graph(content, api_key="wrong-key", site=site)
    assert "wrong-key" not in str(refused.value)


def test_nothing_is_sent_that_is_wrong_or_to_an_address_that_is_not_safe(site, content, monkeypatch):
    monkeypatch.delenv("NEURONPEDIA_API_KEY", raising=False)
    with pytest.raises(AnalysisError, match="needs an API key"):
        upload_graph(content, site=site)
    with pytest.raises(AnalysisError, match="not valid"):
        upload_graph({**content, "nodes": []}, api_key="secret", site=site)
    with pytest.raises(AnalysisError, match="https"):
        upload_graph(content, api_key="secret", site="http://example.org")
    assert Site.places == {}
    Site.elsewhere = "http://example.org/put"
    with pytest.raises(AnalysisError, match="https"):
        upload_graph(content, api_key="secret", site=site)
    with pytest.raises(AnalysisError, match="could not be reached"):
        upload_graph(content, api_key="secret", site="http://127.0.0.1:9")
