"""Where code of plugins runs: whatever it raises is an ordinary exception, and whatever it prints goes to stderr."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any, TypeVar

from ..errors import PluginError

T = TypeVar("T")


def attempt(work: Callable[[], T]) -> T:
    """Do `work`, which is somebody else's; what would end the process, such as `sys.exit`, becomes a `PluginError`.

    Only the user's own interrupt passes: a signal, not a `KeyboardInterrupt` that the code raises by itself.
    """
    with _interrupts() as pressed:
        try:
            return work()
        except Exception:
            raise
        except KeyboardInterrupt as error:
            if pressed or threading.current_thread() is not threading.main_thread():
                raise
            raise PluginError(worded(error)) from error
        except BaseException as error:
            raise PluginError(worded(error)) from error


def worded(error: BaseException) -> str:
    """Kind and text of somebody else's exception, whose own `__str__` may fail."""
    try:
        text = str(error)
    except Exception:  # third-party code
        text = "its message cannot be shown"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Within, what is yielded grows by each interrupt from the keyboard."""
    pressed: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield pressed
        return

    def note(number: int, frame: Any) -> None:
        pressed.append(number)
        before(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def printing_to_stderr() -> Iterator[None]:
    """Within, standard output is standard error, for Python and for what writes to the descriptor itself.

    So what a plugin prints when it is imported does not spoil the output of a command, which may be JSON.
    """
    kept: int | None = None
    with suppress(OSError, ValueError):  # where a descriptor is closed, nothing can be printed to it either
        sys.stdout.flush()
        kept = os.dup(1)
        os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        if kept is not None:
            with suppress(OSError, ValueError):
                sys.stderr.flush()
            os.dup2(kept, 1)
            os.close(kept)
