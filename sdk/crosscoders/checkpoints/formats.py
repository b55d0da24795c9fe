"""The interface of other libraries' checkpoint formats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from ..crosscoder.module import Crosscoder


@runtime_checkable
class CheckpointFormat(Protocol):
    """Another library's checkpoint files."""

    def detect(self, files: Iterable[str]) -> bool:
        """Whether a folder with these files is of this format."""

    def read(self, folder: Path, sites: Mapping[str, str]) -> Crosscoder:
        """Read a crosscoder; `sites` names the sites that the files do not name."""

    def write(self, crosscoder: Crosscoder, folder: Path) -> None:
        """Write `crosscoder` in this format."""
