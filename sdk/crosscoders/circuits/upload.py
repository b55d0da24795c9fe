"""Graphs to Neuronpedia, by a user's API key and the standard library's HTTP client.

Three requests: ask for a place (`signed-put`), put the bytes there, have them stored (`save-to-db`). The file is
checked by our own validator before anything is sent. Whoever has the link can see the graph.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from ..errors import AnalysisError, printable
from ..reading import parse_json, read_text
from .graph_rules import LARGEST_UPLOAD, SMALLEST_UPLOAD, check_graph_json

SITE = "https://www.neuronpedia.org"
KEY = "NEURONPEDIA_API_KEY"
"""The environment variable with the key."""
TIMEOUT = 60.0


def upload_graph(graph: Mapping[str, Any] | str | Path, *, api_key: str = "", site: str = SITE) -> str:
    """Upload a graph's JSON, as `graph_to_json` gives it or from a file; returns the page's address.

    The key is `api_key` or the environment's `NEURONPEDIA_API_KEY`. `AnalysisError` says what the validator or the site
    has against the file, or why the site could not be reached.
    """
    key = api_key or os.environ.get(KEY, "")
    if not key:
        raise AnalysisError(f"uploading needs an API key of {site}: pass api_key= or set {KEY}")
    data = dict(graph) if isinstance(graph, Mapping) else parse_json(
        read_text(Path(graph), AnalysisError, limit=LARGEST_UPLOAD), str(graph), AnalysisError
    )  # fmt: skip
    check_graph_json(data)
    slug, scan = data["metadata"]["slug"], data["metadata"]["scan"]
    content = json.dumps(data, ensure_ascii=False, allow_nan=False).encode()
    # Blanks after the end mean nothing in JSON, and the site takes no file that is shorter.
    content += b" " * max(0, SMALLEST_UPLOAD - len(content))
    if len(content) > LARGEST_UPLOAD:
        raise AnalysisError(
            f"the graph has {len(content):,} bytes, and {site} takes {LARGEST_UPLOAD:,} at most: prune it further"
        )
    name = re.sub(r"[^A-Za-z0-9._-]", "-", f"{scan}-{slug}.json")
    place = _asked(site, "/api/graph/signed-put", {"filename": name, "contentLength": len(content)}, key)
    address, request = place.get("url"), place.get("putRequestId")
    if not isinstance(address, str) or not isinstance(request, str):
        raise AnalysisError(f"{site} gave no place to put the file")
    # The key is the site's and goes nowhere else.
    _sent("PUT", address, content, "the file")
    _asked(site, "/api/graph/save-to-db", {"putRequestId": request}, key)
    return f"{site.rstrip('/')}/{scan}/graph?slug={slug}"


def _asked(site: str, path: str, body: Mapping[str, Any], key: str) -> dict[str, Any]:
    content = _sent("POST", site.rstrip("/") + path, json.dumps(body).encode(), path, {"x-api-key": key})
    answer = parse_json(content, f"the answer of {site}{path}", AnalysisError)
    return answer if isinstance(answer, dict) else {}


class _NoRedirect(HTTPRedirectHandler):
    """A key and a file go to the address that was named, or nowhere."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _sent(method: str, address: str, data: bytes, what: str, headers: Mapping[str, str] | None = None) -> bytes:
    parts = urlsplit(address)
    host = parts.netloc
    local = parts.hostname in ("127.0.0.1", "localhost", "::1")
    if parts.scheme != "https" and not (parts.scheme == "http" and local):
        raise AnalysisError(f"{what} should go to an https address, and not to {printable(address)}")
    known = {"Content-Type": "application/json", **(headers or {})}
    request = Request(address, data=data, method=method, headers=known)  # noqa: S310  the scheme was just looked at
    try:
        with build_opener(_NoRedirect).open(request, timeout=TIMEOUT) as answer:
            content: bytes = answer.read(2**20)
            return content
    except HTTPError as error:
        said = printable(error.read(2_000).decode(errors="replace"))
        raise AnalysisError(f"{host} refused {what} ({error.code}): {said or error.reason}") from error
    except (URLError, OSError, ValueError) as error:
        raise AnalysisError(f"{host} could not be reached: {getattr(error, 'reason', error)}") from error
