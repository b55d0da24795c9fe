"""A live server in a thread, and requests to it as any program could send them."""

import http.client
import json
import threading
import time

import uvicorn

from crosscoders.explorer.serve import HOST, _listening
from crosscoders.explorer.serve_answers import Live
from crosscoders.explorer.serve_app import live_app

TOKEN = "secret-of-the-tests"


class Server:
    def __init__(self, study, dashboard=None):
        self.socket = _listening(0)
        self.port = self.socket.getsockname()[1]
        self.live = Live(study, name="a crosscoder")
        hosts = (f"{HOST}:{self.port}", f"localhost:{self.port}")
        app = live_app(self.live, token=TOKEN, hosts=hosts, dashboard=dashboard)
        self.url = f"http://{HOST}:{self.port}/{TOKEN}/"
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", ws="none"))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)

    def __enter__(self):
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        return self

    def __exit__(self, *_):
        self.server.should_exit = True
        self.thread.join()
        self.socket.close()

    def connect(self):
        return http.client.HTTPConnection(HOST, self.port, timeout=60)

    def ask(self, path, body=None, *, method=None, headers=None, token=TOKEN):
        """Status, headers and content of an answer; `path` goes out as it is."""
        connection = self.connect()
        sent = json.dumps(body).encode() if isinstance(body, dict | list) else body
        connection.request(
            method or ("GET" if body is None else "POST"),
            f"/{token}/{path}" if token is not None else path,
            body=sent,
            headers={**({"Content-Type": "application/json"} if body is not None else {}), **(headers or {})},
        )
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, dict(answer.getheaders()), content

    def post(self, path, body, **more):
        status, _, content = self.ask(path, body, **more)
        return status, json.loads(content)
