"""Plain text from files, cut into documents at blank lines."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from attrs import field, frozen
from attrs.validators import ge, in_, min_len

from crosscoders import BadRow, ConfigError, Origin, Text

from .rows import BAD_ROWS, bad


@frozen(kw_only=True)
class TextFilesConfig:
    """Text files, or folders whose files are read in the order of their names."""

    paths: tuple[Path, ...] = field(validator=min_len(1))
    """The files to read, and folders whose files are read."""
    pattern: str = "*.txt"
    """Pattern of the files in a folder, at any depth."""
    min_characters: int = field(default=500, validator=ge(1))
    """Paragraphs are joined until a document is at least this long."""
    bad_rows: str = field(default="stop", validator=in_(BAD_ROWS))
    """`stop` at a file that is not UTF-8 text, or `skip` and count it."""


@frozen
class TextFiles:
    """Token source `text_files`."""

    config: TextFilesConfig

    def documents(self, *, skip: int = 0) -> Iterator[Text | BadRow]:
        """Yield documents in the order of files and paragraphs."""
        return islice(self._all(), skip, None)

    def _all(self) -> Iterator[Text | BadRow]:
        for path in files_of(self.config.paths, self.config.pattern):
            text = self._read(path)
            if isinstance(text, BadRow):
                yield text
                continue
            pending, number = "", 0
            for paragraph in text.split("\n\n"):
                pending = f"{pending}\n\n{paragraph}" if pending else paragraph
                if len(pending) >= self.config.min_characters:
                    number += 1
                    yield Text(pending, origin=Origin(f"{path}, document {number}", self.config.bad_rows))
                    pending = ""
            if pending.strip():
                yield Text(pending, origin=Origin(f"{path}, document {number + 1}", self.config.bad_rows))

    def _read(self, path: Path) -> str | BadRow:
        try:
            return path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            return bad(Origin(str(path), self.config.bad_rows), f"is not UTF-8 text: {error}")
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from error


def files_of(paths: tuple[Path, ...], pattern: str) -> list[Path]:
    """The files that `paths` name; `ConfigError` if one is missing or a folder has no matching file."""
    files: list[Path] = []
    for path in paths:
        found = sorted(p for p in path.rglob(pattern) if p.is_file()) if path.is_dir() else [path]
        if not found or not found[0].is_file():
            raise ConfigError(f"there is no file {pattern if path.is_dir() else ''} at {path}".replace("  ", " "))
        files += found
    return files
