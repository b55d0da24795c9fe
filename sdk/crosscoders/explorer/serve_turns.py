"""One model call at a time: others wait their turn, and whoever has gone is not worked for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from threading import Event
from typing import TypeVar

from .serve_answers import Gone

T = TypeVar("T")

MOST_WAITING = 8
LOOK = 0.1
"""Seconds after which it is looked again whether whoever asked is still there."""


class Busy(Exception):  # noqa: N818
    """More requests wait than are let in."""


class Turns:
    """Runs work in a thread, one piece after the other, in the order of asking."""

    def __init__(self, most_waiting: int = MOST_WAITING) -> None:
        self.most_waiting, self.waiting = most_waiting, 0
        self._free = asyncio.Lock()

    async def run(self, work: Callable[[Event], T], gone: Callable[[], Awaitable[bool]]) -> T:
        """What `work` returns, whose event is set once `gone` is true. `Busy` and `Gone` say why there is nothing."""
        if self.waiting > self.most_waiting:
            raise Busy
        self.waiting += 1
        try:
            async with self._free:
                if await gone():
                    raise Gone
                stop = Event()
                task = asyncio.ensure_future(asyncio.to_thread(work, stop))
                try:
                    while not (await asyncio.wait([task], timeout=LOOK))[0]:
                        if await gone():
                            stop.set()
                except asyncio.CancelledError:
                    # The server ends: the thread still has to, before another may begin.
                    stop.set()
                    await asyncio.wait([task])
                    raise
                return task.result()
        finally:
            self.waiting -= 1
