"""Documents, which token sources yield: plain text, conversations, or token ids; and rows that hold none of these.

A source does not know any tokenizer. A model adapter turns documents into tokens, so one source serves every model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from attrs import Attribute, asdict, field, frozen
from attrs.validators import in_, instance_of, min_len

from ..converters import as_tuple

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
"""Who may speak in a conversation; whether a model's chat template has words for all of them is its own affair."""

BAD_ROWS = ("stop", "skip")
"""What may be done with a row that is not a document: end the run with its name, or pass over and count it."""

_SURROGATE = re.compile("[\ud800-\udfff]")


def whole_characters(text: Any) -> Any:
    """`text` with U+FFFD in place of halves of characters, which JSON can hold and no tokenizer takes."""
    if not isinstance(text, str) or text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return _SURROGATE.sub("\ufffd", text)
    return text


@frozen
class Origin:
    """Where a document comes from, and what should be done if a model cannot read it."""

    place: str
    """For people: the file and line, or the dataset and row."""
    bad_rows: str = field(default="stop", validator=in_(BAD_ROWS))
    """`stop` or `skip`."""
    again: bool = False
    """Whether this row has been given before, by a source that began again inside another; it is then not counted."""


@frozen
class Text:
    """A piece of running text."""

    text: str = field(validator=instance_of(str), converter=whole_characters)
    # A document is what it says, wherever it stands: two with different origins are equal and fall into one split.
    origin: Origin | None = field(default=None, eq=False, repr=False, kw_only=True)


@frozen
class Message:
    """One turn of a conversation."""

    role: str = field(validator=in_(ROLES))
    content: str = field(validator=instance_of(str), converter=whole_characters)
    extra: Mapping[str, Any] = field(factory=dict, hash=False, kw_only=True)
    """What else the chat template may read: `tool_calls`, `name`, `tool_call_id`, ..., as plain JSON data."""


@frozen
class Chat:
    """A conversation; the adapter lays it out with its tokenizer's chat template."""

    messages: tuple[Message, ...] = field(converter=as_tuple, validator=min_len(1))
    origin: Origin | None = field(default=None, eq=False, repr=False, kw_only=True)


@frozen
class TokenIds:
    """A sequence that needs no tokenizer: ids of a synthetic world, or text tokenised elsewhere."""

    ids: tuple[int, ...] = field(converter=as_tuple, validator=min_len(1))
    origin: Origin | None = field(default=None, eq=False, repr=False, kw_only=True)


@frozen
class BadRow:
    """A row that holds no document, of a source that was told to skip such rows: it is counted and passed over."""

    origin: Origin
    reason: str
    """What is wrong with the row."""


Document = Text | Chat | TokenIds


def is_held_out(document: Document, share: float) -> bool:
    """Whether a document belongs to the held-out split. Its content decides, so repeats never leak into training."""
    return number_of(document) < share * 2**64


def number_of(document: Document) -> int:
    """A number below 2**64 that the content of a document decides, as if it were drawn evenly."""
    if isinstance(document, TokenIds):
        # attrs would look at each id, and documents of synthetic worlds are many, most of them only asked for this.
        content: dict[str, Any] = {"ids": document.ids}
    else:
        content = asdict(document, filter=_is_content)
    return int.from_bytes(blake2b(repr(content).encode(), digest_size=8).digest(), "big")


def _is_content(attribute: Attribute[Any], value: Any) -> bool:
    # A message without extras is what it was before there were any, so that splits stay as they are.
    return attribute.name != "origin" and not (attribute.name == "extra" and not value)
