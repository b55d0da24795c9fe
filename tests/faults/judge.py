"""Runs one mutant and says what came of it: refused, the same as before, or one of the faults."""

from __future__ import annotations

import os
import re
import signal
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

from crosscoders import CrosscodersError

FINE = ("refused", "same")
FORBIDDEN_EVENTS = ("pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn")
SPARE = 64 * 2**20
"""Bytes that memory may grow by besides twice the file: arenas of the allocator, modules imported on the way."""
SECONDS = 30

_events: list[str] = []
_watching = False


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching:
        return
    if event in FORBIDDEN_EVENTS or (event == "open" and re.search(r"canary|/etc/passwd", str(arguments[0]))):
        _events.append(f"{event} {str(arguments)[:80]}")


sys.addaudithook(_audit)


def judge(use: Callable[[], Any], same: Callable[[Any], bool], size: int) -> str:
    """`refused`, `same`, or a fault in words."""
    global _watching
    before = _reset_peak()
    _events.clear()
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(SECONDS)
    _watching = True
    try:
        found = "same" if same(use()) else "CHANGED without a word"
    except CrosscodersError as error:
        found = "refused" if _is_clean(str(error)) else f"STEERS the terminal: {str(error)!r}"
    except BaseException as error:
        found = f"RAW {type(error).__module__}.{type(error).__name__}: {str(error)[:200]}"
        if os.environ.get("FAULTS_TRACEBACK"):
            raise
    finally:
        _watching = False
        signal.alarm(0)
    if _events:
        found = f"ESCAPE {_events[0]}"
    grown = _peak() - before
    if found in FINE and grown > 2 * size + SPARE:
        found = f"MEMORY grew by {grown >> 20} MB for a file of {size >> 10} kB"
    return found


def _is_clean(text: str) -> bool:
    return len(text) < 20_000 and not any(
        unicodedata.category(c) in ("Cc", "Cf", "Cs") for c in text if c not in "\n\t"
    )


def _too_long(*_: Any) -> None:
    raise TimeoutError(f"no end after {SECONDS} s")


def _reset_peak() -> int:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return 0
    return _peak()


def _peak() -> int:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0
