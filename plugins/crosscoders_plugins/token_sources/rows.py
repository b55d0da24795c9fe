"""From rows of files and datasets to documents: what a row may hold, and what is said of one that does not hold it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from crosscoders import BadRow, Chat, ConfigError, Message, Origin, Text, TokenIds

BAD_ROWS = ("stop", "skip")
"""What may be done with a row that is not a document."""

MASK = "attention_mask"
HIDDEN = ("role", "content")


class RowError(ValueError):
    """A row holds no document; the message says why, without the place."""


def bad(origin: Origin, reason: str) -> BadRow:
    """A row that is counted and passed over; `ConfigError` with its place if the source should stop at such rows."""
    if origin.bad_rows == "skip":
        return BadRow(origin, reason)
    raise ConfigError(f"{origin.place} {reason}; mend the row, or pass over such rows with bad_rows = 'skip'")


def text_of(row: Any, column: str, origin: Origin) -> Text | BadRow:
    """The text in a column of a row."""
    try:
        return Text(_column(row, column, str, "text"), origin=origin)
    except RowError as error:
        return bad(origin, str(error))


def ids_of(row: Any, column: str, origin: Origin) -> TokenIds | BadRow:
    """The token ids in a column of a row, without padding where its `attention_mask` tells of some."""
    try:
        ids = _whole_numbers(row, column)
        if isinstance(row.get(MASK), list):
            mask = _whole_numbers(row, MASK)
            if len(mask) != len(ids):
                raise RowError(f"has {len(ids)} ids in '{column}' and {len(mask)} values in '{MASK}'")
            ids = [number for number, there in zip(ids, mask, strict=True) if there]
        if not ids:
            raise RowError(f"has no token ids in '{column}'")
        return TokenIds(tuple(ids), origin=origin)
    except RowError as error:
        return bad(origin, str(error))


def _whole_numbers(row: Any, column: str) -> list[int]:
    values: list[int] = _column(row, column, list, "list of token ids")
    wrong = [value for value in values if type(value) is not int or value < 0]
    if wrong:
        raise RowError(f"has {_shown(wrong[0])} among the token ids in '{column}'")
    return values


def chat_of(row: Any, column: str, origin: Origin) -> Chat | BadRow:
    """The conversation in a column of a row: a list of turns with role and content."""
    try:
        turns = _column(row, column, list, "list of turns")
        if not turns:
            raise RowError(f"has a conversation without turns in '{column}'")
        return Chat(tuple(_message(turn, number) for number, turn in enumerate(turns, start=1)), origin=origin)
    except RowError as error:
        return bad(origin, str(error))


def _column(row: Any, column: str, kind: type, name: str) -> Any:
    if not isinstance(row, Mapping):
        raise RowError(f"is {_shown(row)} instead of a table of columns")
    if column not in row:
        raise RowError(f"has no column '{column}'; it has {', '.join(map(str, list(row)[:12])) or 'none'}")
    if not isinstance(row[column], kind):
        raise RowError(f"has {_shown(row[column])} instead of a {name} in the column '{column}'")
    return row[column]


def _message(turn: Any, number: int) -> Message:
    if not isinstance(turn, Mapping) or not isinstance(turn.get("role"), str):
        raise RowError(f"has a turn {number} without a role: {_shown(turn)}")
    # Datasets with one schema for all rows fill what a turn does not have with null.
    extra = {key: value for key, value in turn.items() if key not in HIDDEN and value is not None}
    content = turn.get("content")
    if isinstance(content, list):
        content = _joined(content, number)
    if content is None and (extra.get("tool_calls") or extra.get("function_call")):
        content = ""  # such a turn says nothing: it calls
    if not isinstance(content, str):
        raise RowError(f"has a turn {number} ({turn['role']}) with {_shown(content)} instead of text as its content")
    try:
        return Message(turn["role"], content, extra=extra)
    except ValueError:
        raise RowError(f"has a turn {number} of the unknown role {_shown(turn['role'])}") from None


def _joined(parts: list[Any], number: int) -> str:
    """The text of a content that comes in parts."""
    texts = []
    for part in parts:
        text = part.get("text") if isinstance(part, Mapping) and part.get("type", "text") == "text" else part
        if not isinstance(text, str):
            raise RowError(f"has a turn {number} with a part that is not text: {_shown(part)}")
        texts.append(text)
    return "".join(texts)


def _shown(value: Any) -> str:
    """A value in a few characters, as JSON has it."""
    try:
        text = json.dumps(value, ensure_ascii=True)
    except (TypeError, ValueError, RecursionError):
        text = type(value).__name__
    return text if len(text) <= 60 else f"{text[:57]}..."
