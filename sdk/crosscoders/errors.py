"""Everything a user can cause is a `CrosscodersError`, so one `except` clause catches it all.

CrosscodersError
├── ConfigError       a config file or option that is invalid
│   └── DocumentError     a document that a model cannot read
├── PluginError       a plugin that is missing, broken, or ambiguous
├── SiteError         a site that no model has, or activations that do not fit the sites
├── LatentError       a latent that a crosscoder does not have, or a change of one that means nothing
├── CheckpointError   a saved crosscoder or run that is damaged, incomplete, or in an unknown format
│   └── UnansweredError   another library's checkpoint that does not say something, and nobody answered
├── CacheError        an activation cache that is damaged, unfinished, or made from another config
├── TrainingError     a run that cannot continue, for example because activations are not finite
├── AnalysisError     an analysis that is not defined for its models or crosscoder
├── DiskError         a file or folder that cannot be written: the disk is full or read-only, for example
└── TrainingStopped   a run that was asked to stop and has saved its state; also a `KeyboardInterrupt`

Messages quote files and plugins of other people, so whatever could steer a terminal is made visible on the way out.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

LONGEST_LINE = 600
"""Characters of one line of a message, beyond which it is cut."""
MOST_PROBLEMS = 5
"""Problems that one message lists."""


def printable(text: str) -> str:
    """`text` with every character that could steer a terminal, or turn its lines around, written as an escape."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in "\n\t" or unicodedata.category(c) not in _STEERING else _escape(c) for c in text)


_STEERING = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def shown(value: Any) -> str:
    """A value of somebody else's file, short enough for a message."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write integers of more than 4300 digits
        return "a very long number"
    return text if len(text) <= 100 else f"{text[:80]}… ({len(text):,} characters)"


def listed(problems: Sequence[str], separator: str = "; ") -> str:
    """The first few of several problems, and how many more there are."""
    more = len(problems) - MOST_PROBLEMS
    return separator.join([*problems[:MOST_PROBLEMS], *([f"and {more:,} more"] if more > 0 else [])])


def nearest(name: str, names: Iterable[str]) -> str:
    """What to ask where `name` is unknown: `; did you mean 'batchtopk'?`, or nothing where no name is near."""
    close = get_close_matches(name, list(names), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


class CrosscodersError(Exception):
    """Base of all errors that this package raises for its users."""

    def __str__(self) -> str:
        lines = printable(super().__str__()).split("\n")
        return "\n".join(
            line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}… ({len(line):,} characters)"
            for line in lines
        )


class ConfigError(CrosscodersError, ValueError):
    """A config value is missing, unknown, of the wrong type, or out of range."""


class DocumentError(ConfigError):
    """A document cannot be read by a model, such as a chat that its template refuses; others can."""


class PluginError(CrosscodersError, LookupError):
    """A requested component is provided by no plugin, or by several."""


class SiteError(CrosscodersError, ValueError):
    """A site does not exist in its model, or a tensor does not fit its sites."""


class LatentError(CrosscodersError, ValueError):
    """A crosscoder has no such latent, or a change of it means nothing."""


class CheckpointError(CrosscodersError, ValueError):
    """A checkpoint is damaged, incomplete, in an unknown format, or needs a plugin that is not installed."""


class UnansweredError(CheckpointError):
    """A checkpoint of another library does not say something, such as its sites, and nobody answered it."""


class TrainingError(CrosscodersError, RuntimeError):
    """A run cannot continue, for example because activations or gradients are not finite."""


class CacheError(CrosscodersError, ValueError):
    """An activation cache is missing, damaged, unfinished, too small, or made from another config."""


class AnalysisError(CrosscodersError, ValueError):
    """An analysis is not defined for the given models or crosscoder."""


class DiskError(CrosscodersError, OSError):
    """A file or folder cannot be written: the disk is full or read-only, or permission is missing."""


class NotEnoughMemoryError(CrosscodersError, MemoryError):
    """Something does not fit into the memory of the machine or of its accelerator."""


class TrainingStopped(CrosscodersError, KeyboardInterrupt):  # noqa: N818
    """A run was asked to stop, by SIGINT, SIGTERM or SIGHUP, and has written a checkpoint to resume from."""

    def __init__(self, step: int, signal_number: int) -> None:
        super().__init__(f"stopped at step {step}; the same command goes on from there")
        self.step = step
        self.exit_code = 128 + signal_number
