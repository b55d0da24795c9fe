"""The interface of other libraries' checkpoint formats."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ..errors import CheckpointError
from .blueprint import Answers, Blueprint
from .source import Source

if TYPE_CHECKING:
    from ..crosscoder.module import Crosscoder


class CheckpointFormat(ABC):
    """Another library's checkpoint files: how to recognise them, what they hold, and how to write them.

    Reading is in two steps. `inspect` reads configs and headers and says what there is and what is not said; the host
    then builds it, block by block. A format that only reads leaves `check` and `write` as they are.
    """

    name: ClassVar[str]
    """As its record calls it."""

    @abstractmethod
    def detect(self, source: Source) -> bool:
        """Whether these files are of this format, by what is in them: config keys, names and shapes of tensors."""

    @abstractmethod
    def inspect(self, source: Source, answers: Answers) -> Blueprint:
        """What the files are, without reading weights.

        `CheckpointError` names a fault of the files. What could be built if only more were known comes back as
        `questions`, what never could as `refused`.
        """

    def check(self, crosscoder: Crosscoder) -> list[str]:
        """What writing `crosscoder` would change or leave out; `CheckpointError` where the format cannot hold it."""
        raise CheckpointError(f"the format '{self.name}' is only read, not written")

    def write(self, crosscoder: Crosscoder, folder: Path) -> None:
        """Write `crosscoder` into an empty folder, after `check`."""
        raise CheckpointError(f"the format '{self.name}' is only read, not written")
