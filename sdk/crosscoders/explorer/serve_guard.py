"""Who may ask the live server: only a browser on this machine that was given the link.

A page of another site can make a browser send requests to this machine, and by a name of its own that leads here (DNS
rebinding) even read the answers. So the host that a request names has to be ours, and the first part of its path the
token of the link, which no other page knows. Nothing is allowed to other origins.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_BODY = 64 * 1024
HEADERS = {
    "Cache-Control": "no-store",
    # Inline parts are for the pages' own policies to allow, by their digest: the page of a graph does so.
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline' data: blob:; connect-src 'self' data: blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",  # the address has the token
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Of every answer: nothing from elsewhere, also where a page that is shown has no policy."""


class Guard:
    """Lets through only what is asked of one of `hosts` (with port), below `/token/`, without the token in its path."""

    def __init__(self, app: ASGIApp, *, token: str, hosts: Sequence[str]) -> None:
        self.app, self.token, self.hosts = app, token.encode(), tuple(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, by the ASGI specification."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # a websocket, which there is none of
            await send({"type": "websocket.close", "code": 1008})
            return

        async def safe_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, safe_send)
            return
        rest = scope["path"][1:].partition("/")[2]
        await self.app(
            {**scope, "path": f"/{rest}", "raw_path": f"/{rest}".encode(), "root_path": ""}, receive, safe_send
        )

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or hosts[0].lower() not in self.hosts:
            return plain_error(403, "this server answers by the address that it was started with only")
        first, slash, _ = scope["path"][1:].partition("/")
        if not slash or not secrets.compare_digest(first.encode("utf-8", "surrogatepass"), self.token):
            return plain_error(403, "open the link that `crosscoders serve` prints: it has a token in it")
        origin = headers.get("origin")
        if origin is not None and origin != f"http://{hosts[0]}":
            return plain_error(403, "pages of other origins are not answered")
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length[:12]) > LARGEST_BODY:
            return plain_error(413, f"a request has {LARGEST_BODY:,} bytes at most")
        return None


def plain_error(status: int, text: str) -> JSONResponse:
    """An answer that says what is wrong."""
    return JSONResponse({"error": text}, status_code=status)
