"""The command line. Each command is a plain function of the SDK; heavy imports wait until a command runs."""

from . import pretrained as _pretrained  # its commands join those of `main`
from .main import main

__all__ = ["main"]

del _pretrained
