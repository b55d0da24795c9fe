"""Where the command line meets the SDK: errors become one line, signals an exit code, and libraries stay quiet."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import click

from ..errors import CrosscodersError, TrainingStopped, printable

ENDS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""What ends a process from outside, where the system has it; `nohup` has the second one ignored."""


@contextmanager
def user_errors(*, hint: str = "") -> Iterator[None]:
    """A user's error is one clear line and exit code 1, not a traceback; a signal exits with 128 and its number.

    `hint` is added to what is said of a run that was stopped.
    """
    with _terminated():
        try:
            yield
        except TrainingStopped as stopped:
            click.echo(printable(f"{stopped}{hint}"), err=True)
            sys.exit(stopped.exit_code)
        except CrosscodersError as error:
            if os.environ.get("CROSSCODERS_TRACEBACK"):
                raise
            raise click.ClickException(str(error)) from error
        except OSError as error:
            if os.environ.get("CROSSCODERS_TRACEBACK"):
                raise
            where = f"{error.filename}: " if error.filename else ""
            raise click.ClickException(printable(f"{where}{error.strerror or error}")) from error
        except KeyboardInterrupt:
            click.echo("stopped", err=True)
            sys.exit(128 + signal.SIGINT)


@contextmanager
def process_group() -> Iterator[None]:
    """Shut down torch.distributed at the end, whatever the end is, if a launcher started it."""
    try:
        yield
    finally:
        if "torch.distributed" in sys.modules:
            distributed = sys.modules["torch.distributed"]
            if distributed.is_available() and distributed.is_initialized():
                distributed.destroy_process_group()


@contextmanager
def _terminated() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the process as an exit does, so that locks and half-written folders go with it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        with suppress(OSError):  # where the terminal has gone
            click.echo("stopped", err=True)
        sys.exit(128 + number)

    heeded = [number for number in ENDS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, leave) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def quiet_libraries() -> None:
    """Silence the libraries that load models: their progress bars and warnings would bury our own output."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TQDM_MININTERVAL", "0.5")
    # On a CPU, small memory pages cost up to half of a training step.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        from transformers.utils import logging
    except ImportError:
        return
    logging.set_verbosity_error()
    logging.disable_progress_bar()
