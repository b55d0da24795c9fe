"""The live server: what it answers, and what it does not."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from crosscoders import AnalysisError, CheckpointError, ConfigError, Study
from crosscoders.explorer.serve import HOST, serve
from crosscoders.explorer.serve_answers import Live
from crosscoders.explorer.serve_files import confined
from crosscoders.explorer.serve_guard import LARGEST_BODY
from crosscoders.explorer.serve_requests import LatentsRequest
from crosscoders.models.sample import Documents
from explorer_live_server import TOKEN, Server
from small_dashboard import small_dashboard
from study_of_texts import shared_study, study_over

TEXT = "Return the sum of a list"
EVIL = '</script><img src=x onerror="window.evil=1">\u202e\u2028\x07'


@pytest.fixture(scope="module")
def server():
    with Server(shared_study()) as running:
        yield running


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory):
    """A folder with what is looked at, and around it what is not to be seen."""
    around = tmp_path_factory.mktemp("around")
    (around / "secret.js").write_text("secret")
    folder = around / "dashboard"
    (folder / "data").mkdir(parents=True)
    (folder / "index.html").write_text("<!doctype html><html><head><title>x</title></head><body>here</body></html>")
    (folder / "data" / "facts.js").write_text("cc.put('facts', {});")
    (folder / ".hidden.js").write_text("secret")
    (folder / "notes.py").write_text("secret")
    (folder / "out.js").symlink_to(around / "secret.js")
    (folder / "outside").symlink_to(around)
    return folder


@pytest.fixture(scope="module")
def shown(dashboard):
    with Server(shared_study(), dashboard) as running:
        yield running


# -- latents ----------------------------------------------------------------------------------------------------


def test_latents_of_a_text_are_those_of_the_study(server):
    status, found = server.post("api/latents", {"text": TEXT, "top": 3})
    assert status == 200
    study = shared_study()
    direct = study.latents(TEXT, top=3)
    assert found["tokens"] == list(direct.texts[0])
    table = {(row["position"], row["rank"]): row for row in direct.table()}
    told = {
        (position, rank): entry
        for position, entries in enumerate(found["latents"])
        for rank, entry in enumerate(entries)
    }
    assert told.keys() == table.keys() and len(told) > 5
    for key, entry in told.items():
        assert entry["latent"] == table[key]["latent"] and entry["value"] == pytest.approx(table[key]["activation"])
    assert [each["latent"] for each in found["strongest"]] == direct.strongest(24)
    x_BX = study.crosscoder.normalised(study.batch(TEXT).x_BX)
    first = found["strongest"][0]
    assert first["values"] == pytest.approx(direct.activation(first["latent"])[0])
    counted = [position for position, counts in enumerate(found["counted"]) if counts]
    W_X = study.crosscoder.encoder_weight(0)[first["latent"]].detach()
    base_X = study.crosscoder.layout.slices["base/layers.1"]
    for n, position in enumerate(counted):
        naive = float(x_BX[n, base_X] @ W_X[base_X])
        assert first["parts"]["base"][position] == pytest.approx(naive, abs=1e-3)
        if first["values"][position] > 0:
            whole = sum(part[position] for part in first["parts"].values()) + found["bias"][str(first["latent"])]
            assert whole == pytest.approx(first["values"][position], abs=1e-3)
            mine = [entry for entry in found["latents"][position] if entry["latent"] == first["latent"]]
            assert all(entry["parts"]["base"] == pytest.approx(naive, abs=1e-3) for entry in mine)
    assert len([position for position in counted if first["values"][position] > 0]) in range(1, len(counted))


def test_no_tokens_are_needed_to_look_at_a_text():
    """As the command has it: it reads no token source."""
    shared = shared_study()
    study = Study(shared.crosscoder, shared.adapters, Documents([]), activations=shared.activations)
    found = Live(study).latents(LatentsRequest.of(b'{"text": "%s"}' % TEXT.encode()), threading.Event())
    assert [each["latent"] for each in found["strongest"]] == shared.latents(TEXT).strongest(24)


def test_a_conversation_is_read_by_the_template(server):
    status, found = server.post("api/latents", {"messages": [{"role": "user", "content": TEXT}]})
    assert status == 200 and len(found["tokens"]) > len(server.post("api/latents", {"text": TEXT})[1]["tokens"])


def test_about_names_models_and_what_they_can(server):
    status, _, content = server.ask("api/about")
    about = json.loads(content)
    assert status == 200 and [model["key"] for model in about["models"]] == ["base", "chat"]
    assert about["reads"] == ["base", "chat"] and about["num_latents"] == 48
    assert all(model["answers"] and model["written"] for model in about["models"])


# -- answers ----------------------------------------------------------------------------------------------------


def test_steering_gives_both_models_answers_plain_and_changed(server):
    study, latent = shared_study(), shared_study().latents(TEXT).strongest(1)[0]
    changes = [{"latent": latent, "kind": "add", "value": 60.0}]
    status, found = server.post("api/generate", {"text": TEXT, "changes": changes, "max_new_tokens": 8})
    assert status == 200 and [answer["model"] for answer in found["answers"]] == ["base", "chat"]
    for answer in found["answers"]:
        steered = study.steer({latent: ("add", 60.0)}, model=answer["model"])
        nothing = study.steer({latent: ("add", 0.0)}, model=answer["model"])
        assert answer["changed"] == steered.generate(TEXT, max_new_tokens=8) != answer["plain"]
        assert answer["plain"] == nothing.generate(TEXT, max_new_tokens=8)


@pytest.mark.parametrize("kind", ["scale", "clamp", "ablate"])
def test_every_kind_of_change_is_that_of_the_study(server, kind):
    latent = shared_study().latents(TEXT).strongest(1)[0]
    change = {"latent": latent, "kind": kind} | ({} if kind == "ablate" else {"value": 9.0})
    asked = {"text": TEXT, "as_it_is": True, "changes": [change], "max_new_tokens": 4, "models": ["chat"]}
    status, found = server.post("api/generate", asked)
    assert status == 200 and len(found["answers"]) == 1
    from crosscoders import Text

    steered = shared_study().steer({latent: "ablate" if kind == "ablate" else (kind, 9.0)}, model="chat")
    assert found["answers"][0]["changed"] == steered.generate([Text(TEXT)], max_new_tokens=4)[0]


def test_amplifying_is_told_of_the_model_after_alone(server):
    asked = {"text": TEXT, "amplify": {"alpha": 3.0}, "max_new_tokens": 6}
    status, found = server.post("api/generate", asked)
    base, chat = found["answers"]
    assert status == 200 and base["changed"] is None and base["note"] == ""
    assert chat["changed"] == shared_study().amplify(alpha=3.0).generate(TEXT, max_new_tokens=6)


def test_amplified_logits_lead_from_one_model_to_the_other(server):
    """α = 0 is the model after, α = −1 the one before on the same tokens."""
    study = shared_study()
    ids = study.adapter("chat").prompt(TEXT)
    from crosscoders.analysis.generate import generate

    expected = {}
    for alpha, key in ((0.0, "chat"), (-1.0, "base")):
        adapter = study.adapter(key)
        rows = generate(
            adapter.decoder(), [ids], ends=study.adapter("chat").end_tokens(), device="cpu", max_new_tokens=6
        )
        expected[alpha] = study.adapter("chat").text(rows[0])
        asked = {"text": TEXT, "amplify": {"alpha": alpha, "of": "logits"}, "models": ["chat"], "max_new_tokens": 6}
        assert server.post("api/generate", asked)[1]["answers"][0]["changed"] == expected[alpha]
    assert expected[0.0] != expected[-1.0]


def test_what_cannot_be_changed_is_said_beside_the_plain_answer():
    study = study_over(("base/layers.1",), steps=1)
    with Server(study) as running:
        asked = {"text": TEXT, "amplify": {"alpha": 1.0, "of": "logits"}, "max_new_tokens": 2}
        status, found = running.post("api/generate", asked)
    assert status == 200 and "two models" in found["answers"][0]["note"] and found["answers"][0]["changed"] is None


def test_a_seed_gives_the_same_answer_again(server):
    asked = {"text": TEXT, "temperature": 1.0, "seed": 5, "max_new_tokens": 12, "models": ["chat"]}
    first, again = server.post("api/generate", asked), server.post("api/generate", asked)
    other = server.post("api/generate", asked | {"seed": 6})
    assert first == again != other


# -- who may ask ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "localhost:1", "127.0.0.1.evil.example:{port}", ""])
def test_another_host_is_not_answered(server, host):
    status, headers, content = server.ask("api/about", headers={"Host": host.format(port=server.port)})
    assert status == 403 and b"address" in content and "Access-Control-Allow-Origin" not in headers


def test_its_other_name_is_answered(server):
    assert server.ask("api/about", headers={"Host": f"localhost:{server.port}"})[0] == 200


@pytest.mark.parametrize(
    "path", ["/", "/api/about", f"/{TOKEN}", f"/{TOKEN}x/", f"/{TOKEN[:-1]}/", "//", "/%00/", "/é/"]
)
def test_without_the_token_nothing_is_answered(server, path):
    from urllib.parse import quote

    status, _, content = server.ask(quote(path, safe="/%"), token=None)
    assert status == 403 and b"token" in content


def test_pages_of_other_origins_are_not_answered(server):
    for origin in ("http://evil.example", "null", f"https://127.0.0.1:{server.port}"):
        assert server.ask("api/about", headers={"Origin": origin})[0] == 403
    assert server.ask("api/about", headers={"Origin": f"http://127.0.0.1:{server.port}"})[0] == 200
    status, headers, _ = server.ask("api/latents", method="OPTIONS", headers={"Origin": "http://evil.example"})
    assert status == 403 and not [name for name in headers if name.lower().startswith("access-control")]


def test_every_answer_forbids_what_is_outside(server):
    for path in ("", "live/panels.js", "api/about", "no/such.js"):
        headers = server.ask(path)[1]
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy and "http" not in policy and "frame-ancestors 'none'" in policy
        assert headers["referrer-policy"] == "no-referrer" and headers["x-content-type-options"] == "nosniff"


def test_it_listens_on_the_loopback_address_only(server):
    assert server.socket.getsockname()[0] == "127.0.0.1"
    others = {found[4][0] for found in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    for address in others - {"127.0.0.1"}:
        with socket.socket() as probe:
            probe.settimeout(1)
            assert probe.connect_ex((address, server.port)) != 0


# -- files ------------------------------------------------------------------------------------------------------


def test_a_dashboards_first_page_gets_the_panels(shown):
    for path in ("", "index.html"):
        status, headers, content = shown.ask(path)
        page = content.decode()
        assert status == 200 and headers["content-type"].startswith("text/html")
        assert page.index('<script src="live/panels.js">') < page.index("</head>") and "here" in page
    assert shown.ask("data/facts.js")[2] == b"cc.put('facts', {});"
    assert shown.ask("live/panels.js")[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "../secret.js",
        "data/../../secret.js",
        "..%2fsecret.js",
        "%2e%2e/secret.js",
        "..\\secret.js",
        "data/..%5c..%5csecret.js",
        "//secret.js",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "out.js",
        "outside/secret.js",
        ".hidden.js",
        "notes.py",
        "data",
        "data/",
        "data/facts.js%00.html",
        "data/facts.js/",
        "C:/secret.js",
        "live/../serve.py",
        "live/serve.py",
        "x" * 3000 + ".js",
    ],
)
def test_no_path_leads_out_of_the_folder(shown, path):
    status, _, content = shown.ask(path)
    assert status == 404 and b"secret" not in content and "error" in json.loads(content)


def test_confined_paths_are_files_of_the_folder(dashboard):
    assert confined(dashboard, "data/facts.js") == dashboard / "data" / "facts.js"
    assert confined(dashboard, "outside/dashboard/index.html") == dashboard / "index.html"
    assert confined(dashboard, "out.js") is None and confined(dashboard, "data") is None


# -- what it asks of a request ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "word"),
    [
        ("latents", b"{", "cannot be read"),
        ("latents", b"\xff\xfe", "cannot be read"),
        ("latents", b'{"text": "a", "text": "b"}', "twice"),
        ("latents", b"[" * 30_000, "cannot be read"),
        ("latents", [], "table"),
        ("latents", {}, "either text or messages"),
        ("latents", {"text": " "}, "something in it"),
        ("latents", {"text": 3}, "something in it"),
        ("latents", {"text": "a", "tops": 1}, "tops"),
        ("latents", {"text": "a", "top": 0}, "from 1 to 64"),
        ("latents", {"text": "a", "top": True}, "number"),
        ("latents", {"text": "a" * 8001}, "8,000 characters"),
        ("latents", {"messages": [{"role": "nobody", "content": "a"}]}, "role"),
        ("latents", {"messages": [{"role": "user"}]}, "role and content"),
        ("generate", {"text": "a", "changes": [{"latent": 48, "kind": "add", "value": 1}]}, "0 to 47"),
        (
            "generate",
            {"text": "a", "changes": [{"latent": 1, "kind": "adds", "value": 1}]},
            "add, scale, clamp, ablate",
        ),
        ("generate", {"text": "a", "changes": [{"latent": 1, "kind": "add"}]}, "value of a change"),
        ("generate", b'{"text": "a", "changes": [{"latent": 1, "kind": "add", "value": NaN}]}', "value of a change"),
        ("generate", {"text": "a", "changes": [{"latent": "1", "kind": "ablate"}]}, "a latent should be"),
        ("generate", {"text": "a", "changes": [{"latent": 1, "kind": "ablate"}] * 2}, "twice"),
        ("generate", {"text": "a", "changes": [{"latent": 1, "kind": "ablate"}], "amplify": {"alpha": 1}}, "both"),
        ("generate", {"text": "a", "amplify": {}}, "alpha"),
        ("generate", {"text": "a", "amplify": {"alpha": 1, "of": "weights"}}, "latents or of logits"),
        ("generate", {"text": "a", "amplify": {"alpha": 1, "of": "logits", "latents": [1]}}, "as a whole"),
        ("generate", {"text": "a", "models": ["third"]}, "third"),
        ("generate", {"text": "a", "models": "base"}, "list of keys"),
        ("generate", {"text": "a", "max_new_tokens": 1000}, "from 1 to 256"),
        ("generate", {"text": "a", "max_new_tokens": 2.5}, "whole number"),
        ("generate", {"text": "a", "temperature": -1}, "from 0 to 10"),
    ],
)
def test_what_is_wrong_with_a_request_is_said(server, path, body, word):
    status, found = server.post(f"api/{path}", body)
    assert status == 400 and word in found["error"]


def test_only_json_is_read_and_only_posted(server):
    assert server.ask("api/latents", b"text=a", headers={"Content-Type": "text/plain"})[0] == 415
    assert server.ask("api/latents")[0] == 404


def test_a_body_is_read_up_to_a_size(server):
    status, found = server.post("api/latents", {"text": "a" * LARGEST_BODY})
    assert status == 413 and "65,536" in found["error"]
    # Also one whose size is not said before.
    connection = server.connect()
    pieces = iter([b"x" * 16_384] * 6)
    headers = {"Content-Type": "application/json"}
    connection.request("POST", f"/{TOKEN}/api/latents", body=pieces, headers=headers, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


def test_an_unforeseen_failure_says_little(server, monkeypatch, capsys):
    def fails(asked, stop):
        raise RuntimeError("a path /home/somebody")

    monkeypatch.setattr(server.live, "latents", fails)
    status, found = server.post("api/latents", {"text": TEXT})
    assert status == 500 and "somebody" not in found["error"] and "RuntimeError" in found["error"]
    assert "somebody" in capsys.readouterr().err


# -- turns ------------------------------------------------------------------------------------------------------


def test_one_request_at_a_time_reaches_the_models(server, monkeypatch):
    running, most, order = set(), [], []

    def slow(asked, stop):
        name = asked.document.text
        running.add(name)
        most.append(len(running))
        time.sleep(0.05)
        running.remove(name)
        order.append(name)
        return {"name": name}

    monkeypatch.setattr(server.live, "latents", slow)
    answers = {}

    def ask(name):
        answers[name] = server.post("api/latents", {"text": name})

    threads = [threading.Thread(target=ask, args=(str(number),)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {str(number): (200, {"name": str(number)}) for number in range(6)}
    assert set(most) == {1} and len(order) == 6


def test_too_many_that_wait_are_turned_away(server, monkeypatch):
    go = threading.Event()
    monkeypatch.setattr(server.live, "latents", lambda asked, stop: go.wait(20) and {"done": True})
    statuses = []
    threads = [
        threading.Thread(target=lambda: statuses.append(server.post("api/latents", {"text": TEXT})[0]))
        for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 20
    while len(statuses) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    go.set()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200] * 9 + [503] * 3


def test_who_has_gone_is_not_worked_for(server, monkeypatch):
    """A client that closes its connection ends the generation, and the next one gets its turn."""
    stopped, began = threading.Event(), threading.Event()

    def endless(asked, stop):
        began.set()
        assert stop.wait(20)
        stopped.set()
        from crosscoders.explorer.serve_answers import Gone

        raise Gone

    with monkeypatch.context() as patch:
        patch.setattr(server.live, "generate", endless)
        connection = server.connect()
        connection.request(
            "POST", f"/{TOKEN}/api/generate", body=b'{"text": "a"}', headers={"Content-Type": "application/json"}
        )
        assert began.wait(20)
        connection.close()
        assert stopped.wait(20)
    assert server.post("api/latents", {"text": TEXT})[0] == 200


def test_a_stopped_generation_ends_at_the_next_token():
    from crosscoders.explorer.serve_answers import Gone
    from crosscoders.explorer.serve_requests import GenerateRequest

    stop = threading.Event()
    stop.set()
    live = Live(shared_study())
    with pytest.raises(Gone):
        live.generate(GenerateRequest.of(b'{"text": "a", "max_new_tokens": 256}', 48), stop)


# -- starting ---------------------------------------------------------------------------------------------------


def test_a_folder_that_is_not_a_dashboard_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="there is no folder"):
        serve(shared_study(), dashboard=tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"no index\.html"):
        serve(shared_study(), dashboard=tmp_path)


def test_a_dashboard_of_another_crosscoder_is_refused():
    other = study_over(("base/layers.1",), steps=1)
    with pytest.raises(AnalysisError, match="of another crosscoder: 48 latents over 'base/layers.1', 'chat/layers.1'"):
        serve(other, dashboard=small_dashboard())


def test_a_port_that_is_taken_is_said(server):
    with pytest.raises(ConfigError, match=rf"port {server.port} cannot be listened on"):
        serve(shared_study(), port=server.port, browser=False)
    with pytest.raises(ConfigError, match="port 70000"):
        serve(shared_study(), port=70_000, browser=False)


def test_the_command_that_opens_a_browser_does_not_tell_the_token(monkeypatch):
    """Other users of the machine can see it; what it opens only this one can read."""
    import urllib.request
    import webbrowser
    from pathlib import Path

    import uvicorn

    opened, said = [], []

    def look(address):
        page = Path(urllib.request.url2pathname(address.removeprefix("file://")))
        opened.append((address, page.read_text(), page.parent.stat().st_mode & 0o077))

    monkeypatch.setattr(webbrowser, "open", look)
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: None)
    serve(shared_study(), say=said.append)
    ((address, page, others),) = opened
    link = re.search(r"http://127\.0\.0\.1:\d+/[\w-]{32}/", said[0])[0]
    assert f"url={link}" in page and link.split("/")[3] not in address and others == 0


def test_without_the_extra_the_command_to_install_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ConfigError, match=r"pip install 'crosscoders\[serve\]'"):
        serve(shared_study(), browser=False)


@pytest.mark.slow
def test_the_command_serves_and_ends_with_ctrl_c(tmp_path):
    crosscoder = tmp_path / "crosscoder"
    shared_study().crosscoder.save_pretrained(crosscoder)
    command = [sys.executable, "-m", "crosscoders", "serve", str(crosscoder), "--no-browser"]
    command += [part for key in ("base", "chat") for part in ("--models", f"{key}=tiny-pair/{key}")]
    environment = os.environ | {"PYTHONPATH": ":".join(path for path in sys.path if path), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            lines = []
            for line in process.stdout:
                lines.append(line)
                if "listening" in line:
                    break
            found = re.search(rf"http://{re.escape(HOST)}:(\d+)/([\w-]{{32}})/", lines[-1])
            assert found, [*lines, process.stderr.read()]
            connection = http.client.HTTPConnection(HOST, int(found[1]), timeout=30)
            connection.request("GET", f"/{found[2]}/")
            assert "live/panels.js" in connection.getresponse().read().decode()
            body, kind = json.dumps({"text": TEXT}), {"Content-Type": "application/json"}
            connection.request("POST", f"/{found[2]}/api/latents", body=body, headers=kind)
            assert json.loads(connection.getresponse().read())["strongest"]
            connection.close()
            assert not [line for line in lines if "tokens" in line]
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=30) in (0, 130)
            assert "Traceback" not in process.stderr.read()
        finally:
            process.kill()
