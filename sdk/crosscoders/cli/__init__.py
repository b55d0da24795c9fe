"""The command line. Each command is a plain function of the SDK; heavy imports wait until a command runs."""

from .main import main

__all__ = ["main"]
