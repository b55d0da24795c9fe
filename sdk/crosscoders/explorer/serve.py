"""The live mode: a study's models behind the pages of a dashboard, for a browser on this machine."""

from __future__ import annotations

import secrets
import socket
import tempfile
import webbrowser
from collections.abc import Callable
from pathlib import Path

from ..analysis.study import Study
from ..errors import ConfigError
from .serve_answers import Live
from .serve_files import checked_dashboard

HOST = "127.0.0.1"
"""The loopback address; there is no option for another."""


def serve(
    study: Study,
    *,
    dashboard: str | Path | None = None,
    name: str = "",
    port: int = 0,
    browser: bool = True,
    say: Callable[[str], None] = print,
) -> None:
    """Answer a browser on this machine until Ctrl-C: latents of a text, and answers with latents changed.

    The pages are those of the folder `dashboard` with two panels more, or the panels alone. Port 0 takes a free one.
    `say` is told the address, whose token nobody else knows. Only the loopback address is listened on. `ConfigError`
    where the extra `serve` is not installed or the port is taken, `CheckpointError` where the folder is not a finished
    dashboard, `AnalysisError` where it is one of another crosscoder.
    """
    try:
        import uvicorn

        from .serve_app import live_app
    except ImportError as error:
        raise ConfigError(
            f"serving needs Starlette and uvicorn ({error}); install them: pip install 'crosscoders[serve]'"
        ) from error
    folder = None if dashboard is None else checked_dashboard(Path(dashboard), study.crosscoder)
    listening = _listening(port)
    port = listening.getsockname()[1]
    token = secrets.token_urlsafe(24)
    hosts = (f"{HOST}:{port}", f"localhost:{port}")
    app = live_app(Live(study, name=name), token=token, hosts=hosts, dashboard=folder)
    address = f"http://{HOST}:{port}/{token}/"
    say(f"listening on {address} (only on this machine; the link is the key; stop with Ctrl-C)")
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        ws="none",
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    with listening, tempfile.TemporaryDirectory(prefix="crosscoders-") as scratch:
        if browser:
            webbrowser.open(_leading_to(address, Path(scratch)).as_uri())
        uvicorn.Server(config).run(sockets=[listening])


def _leading_to(address: str, folder: Path) -> Path:
    """A page that goes on to `address`, in a folder that only this user may read.

    The command that opens a browser can be seen by all users of a machine, and the address is the key.
    """
    page = folder / "live.html"
    page.write_text(
        f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={address}">'
        f'<title>crosscoders live</title><a href="{address}">Go on</a>',
        encoding="utf-8",
    )
    return page


def _listening(port: int) -> socket.socket:
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((HOST, port))
        found.listen(64)  # who opens the link at once waits until models answer
    except (OSError, OverflowError) as error:
        found.close()
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"port {port} cannot be listened on: {reason}; choose another, or 0 for any") from error
    return found
