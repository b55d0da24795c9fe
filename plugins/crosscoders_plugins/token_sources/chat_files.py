"""Conversations from JSON Lines files: one `{"messages": [{"role": ..., "content": ...}, ...]}` per line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from attrs import field, frozen
from attrs.validators import in_, min_len

from crosscoders import BadRow, Chat, ConfigError, Origin

from .rows import BAD_ROWS, bad, chat_of
from .text_files import files_of


@frozen(kw_only=True)
class ChatFilesConfig:
    """JSON Lines files, or folders of them."""

    paths: tuple[Path, ...] = field(validator=min_len(1))
    """The files to read, and folders whose files are read."""
    pattern: str = "*.jsonl"
    """Pattern of the files in a folder, at any depth."""
    column: str = "messages"
    """Key of the list of turns."""
    bad_rows: str = field(default="stop", validator=in_(BAD_ROWS))
    """`stop` at a line that holds no conversation, or that a model's chat template refuses, or `skip` and count it."""


@frozen
class ChatFiles:
    """Token source `chat_files`."""

    config: ChatFilesConfig

    def documents(self, *, skip: int = 0) -> Iterator[Chat | BadRow]:
        """Yield the conversations in the order of files and lines."""
        return islice(self._all(), skip, None)

    def _all(self) -> Iterator[Chat | BadRow]:
        for path in files_of(self.config.paths, self.config.pattern):
            try:
                # In bytes, so that a line that is not UTF-8 is a bad line with a number, and does not end the file.
                with path.open("rb") as lines:
                    for number, line in enumerate(lines, start=1):
                        if line.strip():
                            yield self._chat(line, Origin(f"{path}:{number}", self.config.bad_rows))
            except OSError as error:
                raise ConfigError(f"cannot read {path}: {error.strerror}") from error

    def _chat(self, line: bytes, origin: Origin) -> Chat | BadRow:
        try:
            row = json.loads(line.decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            return bad(origin, f"is not UTF-8 text: {error}")
        except (ValueError, RecursionError) as error:
            return bad(origin, f"is not valid JSON: {error}")
        return chat_of(row, self.config.column, origin)
