"""Where the command line meets the SDK: errors become one line, and libraries stay quiet."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from ..errors import CrosscodersError


@contextmanager
def user_errors() -> Iterator[None]:
    """Report a user's error as one clear line with exit code 1, instead of a traceback."""
    try:
        yield
    except CrosscodersError as error:
        if os.environ.get("CROSSCODERS_TRACEBACK"):
            raise
        raise click.ClickException(str(error)) from error
    finally:
        _destroy_process_group()


def _destroy_process_group() -> None:
    """Shut down torch.distributed if a launcher started it."""
    if "torch.distributed" in sys.modules:
        distributed = sys.modules["torch.distributed"]
        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()


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
