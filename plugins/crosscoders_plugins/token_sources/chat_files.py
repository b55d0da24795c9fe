"""Conversations from JSON Lines files: one `{"messages": [{"role": ..., "content": ...}, ...]}` per line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from attrs import field, frozen
from attrs.validators import min_len

from crosscoders import Chat, ConfigError, Message

from .text_files import files_of


@frozen(kw_only=True)
class ChatFilesConfig:
    """JSON Lines files, or folders of them."""

    paths: tuple[Path, ...] = field(validator=min_len(1))
    """The files to read, and folders whose files are read."""
    pattern: str = "*.jsonl"
    """Pattern of the files in a folder, at any depth."""
    column: str = "messages"
    """Key under which each line has its list of turns."""


@frozen
class ChatFiles:
    """Token source `chat_files`."""

    config: ChatFilesConfig

    def documents(self, *, skip: int = 0) -> Iterator[Chat]:
        """Yield the conversations in the order of files and lines."""
        return islice(self._all(), skip, None)

    def _all(self) -> Iterator[Chat]:
        for path in files_of(self.config.paths, self.config.pattern):
            with path.open(encoding="utf-8") as lines:
                for number, line in enumerate(lines, start=1):
                    if line.strip():
                        yield chat_of(_parse(line, f"{path}:{number}"), self.config.column, f"{path}:{number}")


def _parse(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{where} is not valid JSON: {error}") from error


def chat_of(row: Any, column: str, where: str) -> Chat:
    """The conversation in a row; `ConfigError` says where a malformed one is."""
    try:
        return Chat(tuple(Message(turn["role"], turn["content"]) for turn in row[column]))
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{where} has no conversation in '{column}' (a list of role and content): {error}") from error
