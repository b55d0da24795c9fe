"""The Hub's client reads its environment at import, so a local server is set up before anything imports it.

Nothing is written into the caches or the home of who runs the tests, compiled kernels included.
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
import tempfile

import pytest
import torch

from hub_server import HubServer

gc.disable()  # until all tests are collected: nearly nothing of what is imported is ever freed
atexit.register(gc.unfreeze)  # libraries look for what is left of them
_server = HubServer()
_home = tempfile.TemporaryDirectory(prefix="crosscoders-home-")
os.environ.update(
    HF_ENDPOINT=_server.url,
    HF_HOME=_home.name,
    XDG_CACHE_HOME=f"{_home.name}/cache",
    XDG_STATE_HOME=f"{_home.name}/state",
    HF_HUB_DISABLE_XET="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    CROSSCODERS_STRICT_PLUGINS="1",
    TOKENIZERS_PARALLELISM="false",
    OMP_NUM_THREADS="1",
)
if not torch.cuda.is_available():
    # Without a GPU, Triton's kernels run by its interpreter, which must be known before they are defined.
    os.environ["TRITON_INTERPRET"] = "1"
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As shells start what they do not wait for; tests of what an interrupt does need one.
    signal.signal(signal.SIGINT, signal.default_int_handler)
for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
    os.environ.pop(name, None)


def pytest_collection_modifyitems(config, items):
    """Tests of GPUs skip where there is none; on another device than the CPU only they and the suites run."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="it needs a GPU, and torch finds none"))
    if os.environ.get("CROSSCODERS_TEST_DEVICE", "cpu") != "cpu":
        from crosscoders.testing.suites.base import Suite

        chosen = [i for i in items if i.get_closest_marker("gpu") or (i.cls and issubclass(i.cls, Suite))]
        config.hook.pytest_deselected(items=[item for item in items if item not in set(chosen)])
        items[:] = chosen


def pytest_collection_finish():
    """Most objects are of imported modules and stay; the collector would go through them again and again."""
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
    gc.enable()


@pytest.fixture(scope="session")
def _hub():
    yield _server.start()
    _server.stop()


@pytest.fixture
def hub(_hub):
    """A running hub without repositories or faults."""
    _hub.repos.clear()
    _hub.objects.clear()
    _hub.faults.clear()
    _hub.requests.clear()
    return _hub


@pytest.fixture
def restored_environment():
    """For tests of commands, which set variables of their process."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True)
def _one_thread():
    """Tests run side by side, one process per core: more threads than cores would only wait for each other."""
    import torch

    torch.set_num_threads(1)
