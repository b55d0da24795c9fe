"""Damage, by a seed: flipped and lost bytes, values of other kinds, names that lead elsewhere."""

from __future__ import annotations

import json
import random
import re
import struct
from typing import Any

VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    3.7,
    2**31,
    2**63,
    10**30,
    10**400,
    float("nan"),
    float("inf"),
    "",
    "x",
    "1",
    "a" * 5000,
    "\x1b[2J\x1b]0;owned\x07",
    "\u202egnp.exe",
    "\ud800",
    "../../../../etc/passwd",
    "/etc/passwd",
    "../canary",
    "__import__('os')",
    [],
    {},
    [[]],
    [0] * 1000,
    {"name": "x"},
    {"": None},
)
TOML_VALUES = ("1", "-1", "1e400", "nan", "inf", '""', '"x"', "[]", "{}", "true", "9" * 5000, "1979-05-27", "[1, 'a']")


class Mutator:
    """Changes data in one place or two; the same seed makes the same changes."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def raw(self, data: bytes) -> bytes:
        """Bytes flipped, lost, doubled, overwritten or put in."""
        pick, out = self.random, bytearray(data)
        if not out:
            return bytes(pick.randrange(256) for _ in range(8))
        at = pick.randrange(len(out))
        stop = min(len(out), at + pick.choice((1, 2, 8, 64, 1024)))
        kind = pick.randrange(7)
        if kind == 0:
            out[at] ^= 1 << pick.randrange(8)
        elif kind == 1:
            del out[at:]
        elif kind == 2:
            del out[at:stop]
        elif kind == 3:
            out[at:at] = out[at:stop]
        elif kind == 4:
            out[at:stop] = pick.choice((b"\0", b"\xff", b"\x80", b"\n", b"9")) * (stop - at)
        elif kind == 5:
            out[at:at] = pick.choice((b"\xef\xbb\xbf", b"[" * 2000, b"{", b'"', b"\\u0000", b"\x1b[2J", b"\0" * 100))
        else:
            out[at] = pick.randrange(256)
        return bytes(out)

    def json(self, text: bytes) -> bytes:
        """A value exchanged, lost, doubled or nested; or raw damage."""
        if self.random.random() < 0.25:
            return self.raw(text)
        try:
            data = json.loads(text)
        except ValueError:
            return self.raw(text)
        holder, key = self.random.choice(list(_places(data)) or [(None, None)])
        if holder is None:
            return json.dumps(self.random.choice(VALUES[:-3])).encode()
        kind = self.random.randrange(8)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[str(self.random.choice(VALUES[14:25]))] = holder.pop(key)
        elif kind == 2 and isinstance(holder, list):
            holder[:] = holder * self.random.choice((2, 50))
        elif kind == 3:
            deep: Any = holder[key]
            for _ in range(self.random.choice((1, 3, 400))):
                deep = [deep] if self.random.random() < 0.5 else {"a": deep}
            holder[key] = deep
        elif kind == 4 and type(holder[key]) in (int, float):
            holder[key] = holder[key] + self.random.choice((1, -1, 0.5, 1000))
        elif kind == 5 and isinstance(holder[key], str):
            holder[key] = self.raw(holder[key].encode()).decode("utf-8", "replace")
        else:
            holder[key] = self.random.choice(VALUES)
        return _dumped(data)

    def safetensors(self, data: bytes) -> bytes:
        """Damage to the length, the header or the tensors."""
        (length,) = struct.unpack("<Q", data[:8])
        header, tensors = data[8 : 8 + length], data[8 + length :]
        kind = self.random.randrange(4)
        if kind == 0:
            return self.raw(data)
        if kind == 1:
            return data[: 8 + length] + self.raw(tensors)
        if kind == 2:
            return struct.pack("<Q", self.random.choice((0, 1, length - 1, length + 1, 2**31, 2**62))) + data[8:]
        header = self.json(header)
        return struct.pack("<Q", len(header)) + header + tensors

    def toml(self, data: bytes) -> bytes:
        """A value exchanged, a line lost or doubled; or raw damage."""
        lines, kind = data.decode().split("\n"), self.random.randrange(5)
        at = self.random.randrange(len(lines))
        if kind == 0:
            return self.raw(data)
        if kind == 1:
            del lines[at]
        elif kind == 2:
            lines.insert(at, lines[self.random.randrange(len(lines))])
        elif kind == 3:
            lines[at] = re.sub(r"^([\w.]+) =", r"\1x =", lines[at])
        else:
            lines[at] = re.sub(r"=.*", lambda _: f"= {self.random.choice(TOML_VALUES)}", lines[at])
        return "\n".join(lines).encode(self.random.choice(("utf-8",) * 8 + ("utf-16", "utf-8-sig")))


def _places(data: Any) -> list[tuple[Any, Any]]:
    found = []
    keys = list(data) if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ()
    for key in keys:
        found += [(data, key), *_places(data[key])]
    return found


def _dumped(data: Any) -> bytes:
    import sys

    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        return json.dumps(data).encode("utf-8", "surrogatepass")
    finally:
        sys.set_int_max_str_digits(before)
