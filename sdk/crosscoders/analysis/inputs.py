"""Texts, conversations and token ids as rows of tokens for a study's models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import AnalysisError
from ..models.adapter import ModelAdapter
from ..models.capabilities import generates, tokenized
from ..models.documents import Chat, Document, Message, Text, TokenIds
from ..models.paired import make_reader
from ..models.sample import Documents
from ..models.tokens import TokenBatch

Input = Any
"""A text, a conversation (`Chat` or `[{"role": ..., "content": ...}]`), token ids, or a list of texts or documents."""


def documents_of(given: Input) -> list[Document]:
    """What a user means by `given`, as documents; `AnalysisError` where that is not to be told."""
    if isinstance(given, str | Text | Chat | TokenIds):
        return [_document(given)]
    if hasattr(given, "tolist"):
        given = given.tolist()
    if not isinstance(given, Sequence) or not given:
        raise AnalysisError(f"expected a text, a chat, token ids, or a list of those, not {given!r}")
    if all(isinstance(item, int) for item in given) or all(isinstance(item, Mapping) for item in given):
        return [_document(given)]
    return [_document(item) for item in given]


def _document(given: Any) -> Document:
    if isinstance(given, Text | Chat | TokenIds):
        return given
    if isinstance(given, str):
        return Text(given)
    if isinstance(given, Sequence) and given and all(isinstance(item, int) for item in given):
        return TokenIds(tuple(given))
    if isinstance(given, Sequence) and given and all(isinstance(m, Mapping) and "role" in m for m in given):
        return Chat(tuple(Message(m["role"], m["content"]) for m in given))
    raise AnalysisError(f"expected a text, a chat or token ids, not {given!r}")


def token_rows(given: Input, adapters: Mapping[str, ModelAdapter], reading: ModelAdapter) -> TokenBatch:
    """One row of tokens for each document, padded on the right, with partners where vocabularies differ."""
    documents = documents_of(given)
    lengths = [len(tokenized(reading, document).ids) for document in documents]
    if not all(lengths):
        raise AnalysisError(f"{documents[lengths.index(0)]!r} has no tokens")
    source = Documents(documents)
    reader = make_reader(source, adapters, reading, context_length=max(lengths), pack=False, repeat=False)
    return reader.read(len(documents))


def prompt_ids(given: Any, adapter: ModelAdapter) -> list[int]:
    """Token ids to go on from: a string is a question laid out for the model, other documents are taken as they are."""
    if isinstance(given, str):
        return generates(adapter, "a question").prompt(given)
    return list(tokenized(adapter, _document(given)).ids)
