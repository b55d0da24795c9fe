"""Documents, which token sources yield: plain text, conversations, or token ids.

A source does not know any tokenizer. A model adapter turns documents into tokens, so one source serves every model.
"""

from __future__ import annotations

from hashlib import blake2b

from attrs import asdict, field, frozen
from attrs.validators import in_, instance_of, min_len

from ..converters import as_tuple


@frozen
class Text:
    """A piece of running text."""

    text: str = field(validator=instance_of(str))


@frozen
class Message:
    """One turn of a conversation."""

    role: str = field(validator=in_(("system", "user", "assistant")))
    content: str = field(validator=instance_of(str))


@frozen
class Chat:
    """A conversation; the adapter lays it out with its tokenizer's chat template."""

    messages: tuple[Message, ...] = field(converter=as_tuple, validator=min_len(1))


@frozen
class TokenIds:
    """A sequence that needs no tokenizer: ids of a synthetic world, or text tokenised elsewhere."""

    ids: tuple[int, ...] = field(converter=as_tuple, validator=min_len(1))


Document = Text | Chat | TokenIds


def is_held_out(document: Document, share: float) -> bool:
    """Whether a document belongs to the held-out split. Its content decides, so repeats never leak into training."""
    digest = blake2b(repr(asdict(document)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64
