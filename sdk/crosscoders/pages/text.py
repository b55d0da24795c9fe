"""Text of others as pages show it: what cannot be seen is made visible. `show.js` does the same in a browser."""

from __future__ import annotations

import re

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_UNSEEN = re.compile("[\u00ad\u061c\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2060\u2066-\u2069\ufeff\ud800-\udfff]")


def visible(text: str) -> str:
    """`text` with line ends, controls, and marks that turn the direction of writing made visible."""
    text = text.replace("\r\n", "⏎").replace("\n", "⏎").replace("\t", "⇥")
    return _UNSEEN.sub(_named, _CONTROL.sub(_control, text))


def word(text: str) -> str:
    """A single token, whose spaces at its ends are seen too."""
    if not text:
        return "∅"
    seen = visible(text)
    inner = seen.strip(" ")
    before = len(seen) - len(seen.lstrip(" "))
    return "␣" * before + inner + "␣" * (len(seen) - before - len(inner))


def _control(match: re.Match[str]) -> str:
    code = ord(match[0])
    return chr(0x2400 + code) if code < 32 else "␡" if code == 127 else _named(match)


def _named(match: re.Match[str]) -> str:
    return f"[U+{ord(match[0]):04X}]"
