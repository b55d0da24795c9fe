"""Who makes a file, and whether that process still lives: so that what the dead have left behind can be removed."""

from __future__ import annotations

import os
import re
import socket
from functools import cache
from hashlib import sha256
from pathlib import Path

from attrs import frozen


@frozen
class Owner:
    """A process, by its machine, its number there, and when it began; numbers are given out again."""

    machine: str
    """The first letters of a hash of the machine's name."""
    pid: int
    began: int
    """Clock ticks since the machine started; 0 where the system does not say."""

    def __str__(self) -> str:
        return f"{self.machine}.{self.pid}.{self.began}"

    @classmethod
    def me(cls) -> Owner:
        """This process."""
        return cls(_machine(), os.getpid(), _began(os.getpid()))

    @classmethod
    def read(cls, text: str) -> Owner | None:
        """What `str` wrote; None for anything else."""
        match = re.fullmatch(r"([0-9a-f]{8})\.(\d{1,10})\.(\d{1,20})", text)
        return cls(match[1], int(match[2]), int(match[3])) if match else None

    @property
    def is_here(self) -> bool:
        """Whether it runs, or ran, on this machine, where it can be asked for."""
        return self.machine == _machine()

    @property
    def lives(self) -> bool:
        """Whether it runs on this machine."""
        if not self.is_here:
            return False
        began = _began(self.pid)
        if began or self.began:
            return began == self.began
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:
            return True
        return True


@cache
def _machine() -> str:
    return sha256(socket.gethostname().encode()).hexdigest()[:8]


def _began(pid: int) -> int:
    """When a process began, by Linux; 0 where there is no such process, or no such system."""
    try:
        # The command's name, in brackets, may hold anything, brackets and spaces included.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        # A zombie, dead but not yet waited for, has nothing in its hands.
        return 0 if fields[0] in (b"Z", b"X") else int(fields[19])
    except (OSError, ValueError, IndexError):
        return 0
