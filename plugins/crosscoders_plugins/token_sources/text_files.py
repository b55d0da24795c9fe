"""Plain text from files, cut into documents at blank lines."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from attrs import field, frozen
from attrs.validators import ge, min_len

from crosscoders import ConfigError, Text


@frozen(kw_only=True)
class TextFilesConfig:
    """Text files, or folders whose files are read in the order of their names."""

    paths: tuple[Path, ...] = field(validator=min_len(1))
    """The files to read, and folders whose files are read."""
    pattern: str = "*.txt"
    """Pattern of the files in a folder, at any depth."""
    min_characters: int = field(default=500, validator=ge(1))
    """Paragraphs are joined until a document is at least this long."""


@frozen
class TextFiles:
    """Token source `text_files`."""

    config: TextFilesConfig

    def documents(self, *, skip: int = 0) -> Iterator[Text]:
        """Yield documents in the order of files and paragraphs."""
        return islice(self._all(), skip, None)

    def _all(self) -> Iterator[Text]:
        for path in files_of(self.config.paths, self.config.pattern):
            pending = ""
            for paragraph in _read(path).split("\n\n"):
                pending = f"{pending}\n\n{paragraph}" if pending else paragraph
                if len(pending) >= self.config.min_characters:
                    yield Text(pending)
                    pending = ""
            if pending.strip():
                yield Text(pending)


def files_of(paths: tuple[Path, ...], pattern: str) -> list[Path]:
    """The files that `paths` name; `ConfigError` if one is missing or a folder has no matching file."""
    files: list[Path] = []
    for path in paths:
        found = sorted(p for p in path.rglob(pattern) if p.is_file()) if path.is_dir() else [path]
        if not found or not found[0].is_file():
            raise ConfigError(f"there is no file {pattern if path.is_dir() else ''} at {path}".replace("  ", " "))
        files += found
    return files


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error}") from error
