"""Data as scripts: a page that is opened from a disk may load scripts, and nothing else.

A script of data calls `cc.put` with JSON, or `cc.pack` with bytes or JSON, compressed (gzip) and written in base64.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import zlib
from contextlib import suppress
from typing import Any

from ..errors import CrosscodersError
from ..reading import finite, parse_json

_SURROGATE = re.compile("[\ud800-\udfff]")
_UNSAFE = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"})


def put_script(name: str, value: Any) -> str:
    """A script that gives the page a JSON value under a name."""
    return f"cc.put({script_json(name)}, {script_json(value)});\n"


def pack_script(name: str, content: Any) -> str:
    """A script that gives the page bytes, or a JSON value, under a name; equal content gives equal text."""
    raw = content if isinstance(content, bytes) else script_json(content).encode()
    packed = base64.b64encode(gzip.compress(raw, compresslevel=6, mtime=0)).decode()
    return f'cc.pack({script_json(name)}, "{packed}");\n'


def put_value(text: str, name: str, error: type[CrosscodersError]) -> Any:
    """The JSON value in a script that `put_script` wrote, which somebody else may have changed; else `error`."""
    head, tail = f"cc.put({script_json(name)}, ", ");\n"
    if not (text.startswith(head) and text.endswith(tail)):
        raise error(f"the data '{name}' of a page should begin with {head} and end with );")
    return parse_json(text[len(head) : -len(tail)], f"the data '{name}' of a page", error)


def unpacked(text: str) -> bytes:
    """The bytes in a script that `pack_script` wrote; none where it is not one."""
    found = re.fullmatch(r'cc\.pack\("[^"\\]*", "([A-Za-z0-9+/=]*)"\);\n', text)
    if found is None:
        return b""
    with suppress(OSError, EOFError, ValueError, zlib.error):
        return gzip.decompress(base64.b64decode(found[1]))
    return b""


def script_json(value: Any) -> str:
    """JSON that may stand in a script element: nothing in it can end the element or begin a comment.

    Numbers that are not finite become null, and halves of surrogate pairs, which no text file can hold, become U+FFFD.
    """
    try:
        text = _dumped(value)
    except (TypeError, ValueError):
        text = _dumped(finite(value))
    return _SURROGATE.sub("\ufffd", text).translate(_UNSAFE)


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
