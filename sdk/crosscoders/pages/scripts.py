"""Data as scripts: a page that is opened from a disk may load scripts, and nothing else.

A script of data calls `cc.put` with JSON, or `cc.pack` with bytes or JSON, compressed (gzip) and written in base64.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
import re
from collections.abc import Mapping
from typing import Any

_SURROGATE = re.compile("[\ud800-\udfff]")
_UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def put_script(name: str, value: Any) -> str:
    """A script that gives the page a JSON value under a name."""
    return f"cc.put({script_json(name)}, {script_json(value)});\n"


def pack_script(name: str, content: Any) -> str:
    """A script that gives the page bytes, or a JSON value, under a name; equal content gives equal text."""
    raw = content if isinstance(content, bytes) else script_json(content).encode()
    packed = base64.b64encode(gzip.compress(raw, compresslevel=6, mtime=0)).decode()
    return f'cc.pack({script_json(name)}, "{packed}");\n'


def script_json(value: Any) -> str:
    """JSON that may stand in a script element: nothing in it can end the element or begin a comment.

    Numbers that are not finite become null, and halves of surrogate pairs, which no text file can hold, become U+FFFD.
    """
    text = json.dumps(_plain(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return "".join(_UNSAFE.get(letter, letter) for letter in text) if _UNSAFE.keys() & set(text) else text


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, Mapping):
        return {_plain(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
