"""A headless Chromium driven over a pipe, for tests of pages; None where there is none."""

import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress

PATH = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --remote-debugging-pipe"
).split()


LEFT = ("Inspected target navigated or closed", "Execution context was destroyed.")


class PageLeft(AssertionError):
    """The page was left for another one while something was asked of it."""


class Chromium:
    """One browser with a tab; others can be opened."""

    def __init__(self, url, size=(1400, 900), ready="document.documentElement?.dataset.ready"):
        self.folder = tempfile.mkdtemp()
        theirs_in, self.send_fd = os.pipe()
        self.receive_fd, theirs_out = os.pipe()

        def connect():
            # The browser reads from 3 and writes to 4, wherever the pipes are.
            read, write = os.dup(theirs_in), os.dup(theirs_out)
            os.dup2(read, 3)
            os.dup2(write, 4)

        command = [PATH, *OPTIONS, f"--user-data-dir={self.folder}"]
        # It is killed in the end and leaves folders for temporary files behind: in its own, which is removed.
        environment = {**os.environ, "TMPDIR": self.folder}
        self.process = subprocess.Popen(
            command,
            preexec_fn=connect,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self.number, self.buffer, self.session, self.events = 0, b"", None, []
        self.open(url, size, ready)

    def open(self, url, size=(1400, 900), ready="document.documentElement?.dataset.ready"):
        """Another tab, which calls go to from now on; returns the session of the one before, for `switch`."""
        before, self.session = self.session, None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")
        self.call(
            "Emulation.setDeviceMetricsOverride", width=size[0], height=size[1], deviceScaleFactor=1, mobile=False
        )
        self.call("Page.navigate", url=url)
        self.wait(ready)
        return before

    def switch(self, session, *, close=False):
        """Go on in another tab, in front of the others; what is behind draws nothing."""
        if close:
            self.call("Page.close")
        self.session = session
        self.call("Page.bringToFront")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        os.close(self.send_fd)
        os.close(self.receive_fd)
        shutil.rmtree(self.folder, ignore_errors=True)

    def call(self, method, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.send_fd, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self.number:
                if answer.get("error", {}).get("message") in LEFT:
                    raise PageLeft(answer)
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _receive(self, seconds=60):
        end = time.monotonic() + seconds
        while b"\0" not in self.buffer:
            assert select.select([self.receive_fd], [], [], max(0, end - time.monotonic()))[0], "the browser is silent"
            self.buffer += os.read(self.receive_fd, 2**20)
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def eval(self, expression):
        """The value of a JavaScript expression; scripts that a page's policy forbids still run from here."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, expression, seconds=20):
        """Until a JavaScript expression is true; returns its value."""
        end = time.monotonic() + seconds
        while True:
            with suppress(PageLeft):  # the page that it leads to has still to come
                if self.eval(f"Boolean({expression})"):
                    return self.eval(expression)
            assert time.monotonic() < end, f"{expression} is still not true"
            time.sleep(0.05)

    def key(self, key, text=None):
        code = {"text": text} if text else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **code)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def type(self, text):
        for letter in text:
            self.key(letter, letter)

    def mouse(self, kind, x, y, **more):
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def click(self, selector, count=1):
        x, y = self.middle(selector)
        for one in range(1, count + 1):
            for kind in ("mousePressed", "mouseReleased"):
                self.mouse(kind, x, y, button="left", clickCount=one)

    def middle(self, selector):
        """Where an element is, once it is in sight."""
        find = f"const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView({{block: 'nearest'}});"
        there = "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2];"
        return self.eval(f"(() => {{ {find} {there} }})()")

    def requests(self):
        """Addresses that the page asked for."""
        return [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]

    def complaints(self):
        """What the browser logged: errors, and what the policy of the page forbade."""
        found = [e["params"]["entry"]["text"] for e in self.events if e.get("method") == "Log.entryAdded"]
        return found + [str(e["params"]) for e in self.events if e.get("method") == "Runtime.exceptionThrown"]

    def picture(self, path):
        import base64

        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))
