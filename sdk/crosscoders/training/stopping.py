"""SIGINT, SIGTERM and SIGHUP during a run: the step is finished and a checkpoint written before the run ends."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self

import torch

from ..processes import Processes

ECHO = 1.0
"""Seconds in which the same wish may come twice: a terminal and a launcher both pass it on."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)
HANGUP: int | None = getattr(signal, "SIGHUP", None)
"""What a process gets when its terminal is closed, where the system has that; `nohup` has it ignored."""
BY_OBSERVER = -1
"""What all agree on where no signal came, but an observer asks for an end."""


class StopRequest:
    """While entered, the first signal is remembered and a second one acts as it would have without us.

    Python lets only the main thread take signals; in another, nothing changes.
    """

    def __init__(self) -> None:
        self.signal_number = 0
        """Which signal came; 0 for none."""
        self._came = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            heeded = [HANGUP] if HANGUP is not None and signal.getsignal(HANGUP) is not signal.SIG_IGN else []
            self._before = {number: signal.signal(number, self._take) for number in (*SIGNALS, *heeded)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def agreed(self, processes: Processes, device: torch.device, *, asked: bool) -> int:
        """The signal that some process got, or `BY_OBSERVER` where some process was `asked`, the same on all of them.

        0 for neither. All call this after the same step.
        """
        # As numbers of which the largest counts: a signal of one process before an observer of another.
        mine = 1 + self.signal_number if self.signal_number else int(asked)
        most = mine if processes.world == 1 else int(processes.most(torch.tensor(mine, device=device)))
        return most - 1 if most > 1 else BY_OBSERVER if most else 0

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number and time.monotonic() - self._came < ECHO:
            return
        if self.signal_number:
            self._restore()
            os.kill(os.getpid(), number)
            return
        self.signal_number, self._came = number, time.monotonic()
        error = sys.__stderr__.fileno() if sys.__stderr__ else 2
        try:
            # Not through `print`, which may be what was interrupted.
            os.write(error, b"\nstopping after this step; once more stops at once\n")
        except OSError:
            # The terminal has gone. What is said from here on goes nowhere, rather than end the run before it is saved.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for place in (sys.__stdout__.fileno() if sys.__stdout__ else 1, error):
                os.dup2(nowhere, place)
            os.close(nowhere)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before = {}
