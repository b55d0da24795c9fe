"""The live server's routes: the pages, and what their panels ask of the models."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from ..errors import CrosscodersError
from .serve_answers import Gone, Live
from .serve_files import TYPES, confined, own_file, with_panels
from .serve_guard import LARGEST_BODY, Guard, plain_error
from .serve_requests import GenerateRequest, LatentsRequest
from .serve_turns import Busy, Turns

NOBODY_WAITS = 499
"""The status that proxies note where a client has gone; nobody reads it."""


def live_app(live: Live, *, token: str, hosts: Sequence[str], dashboard: Path | None = None) -> Guard:
    """An ASGI application that answers below `/token/` for `hosts`, and shows the folder `dashboard` if any."""
    turns = Turns()

    async def about(request: Request) -> Response:
        return JSONResponse(live.about())

    async def latents(request: Request) -> Response:
        return await _answered(request, turns, lambda body: (LatentsRequest.of(body), live.latents))

    async def generated(request: Request) -> Response:
        count = live.study.crosscoder.num_latents
        return await _answered(request, turns, lambda body: (GenerateRequest.of(body, count), live.generate))

    async def first_page(request: Request) -> Response:
        if dashboard is None:
            return _text("live.html", own_file("live.html") or "")
        return _text("index.html", with_panels((dashboard / "index.html").read_text(encoding="utf-8")))

    async def live_file(request: Request) -> Response:
        name = request.path_params["name"]
        text = own_file(name)
        return plain_error(404, "there is no such file") if text is None else _text(name, text)

    async def shown_file(request: Request) -> Response:
        path = request.path_params["path"]
        if path == "index.html":
            return await first_page(request)
        found = None if dashboard is None else confined(dashboard, path)
        if found is None:
            return plain_error(404, "there is no such file")
        return FileResponse(found, media_type=TYPES[found.suffix])

    routes = [
        Route("/", first_page),
        Route("/api/about", about),
        Route("/api/latents", latents, methods=["POST"]),
        Route("/api/generate", generated, methods=["POST"]),
        Route("/live/{name}", live_file),
        Route("/{path:path}", shown_file),
    ]
    return Guard(Starlette(routes=routes), token=token, hosts=hosts)


Work = Callable[[Any, Event], dict[str, Any]]


async def _answered(request: Request, turns: Turns, read: Callable[[bytes], tuple[Any, Work]]) -> Response:
    """The JSON of what was asked for; every error is JSON too, and only errors that are meant for users speak."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return plain_error(415, "a request should be JSON, with the content type application/json")
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > LARGEST_BODY:
            return plain_error(413, f"a request has {LARGEST_BODY:,} bytes at most")
    try:
        asked, work = read(body)
        return JSONResponse(await turns.run(lambda stop: work(asked, stop), request.is_disconnected))
    except CrosscodersError as error:
        return plain_error(400, str(error))
    except Busy:
        return plain_error(503, f"{turns.most_waiting} requests wait already; try again when they are answered")
    except Gone:
        return Response(status_code=NOBODY_WAITS)
    except Exception as error:
        traceback.print_exc()
        return plain_error(500, f"the server failed ({type(error).__name__}); its terminal says where")


def _text(name: str, text: str) -> Response:
    return Response(text, media_type=TYPES[Path(name).suffix])
