"""How the rows of a run are made: as its config asks, so far as its models can read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .adapter import ModelAdapter
from .capabilities import reads_text, tokenized, vocabulary_of
from .documents import Text
from .packing import keeps_documents_apart
from .paired import make_reader
from .tokens import Tokenized, TokenSource

SHARES = (0.1, 0.2, 0.3, 0.4)
"""Parts of a row that the documents of a trial take at most."""


def choose_pack(
    source: TokenSource,
    adapters: Mapping[str, ModelAdapter],
    reading: ModelAdapter,
    points: Mapping[str, Sequence[str]],
    *,
    context_length: int,
    pack: bool | str = True,
    held_out_share: float = 0.0,
) -> bool | str:
    """What `pack` comes to: true only if every model keeps documents of a row apart, which one row is run to see.

    `points` are those that matter of each model, by key; the deepest is compared.
    """
    if pack is not True:
        return pack
    rows = make_reader(
        source, adapters, reading, context_length=context_length, pack=False, held_out_share=held_out_share
    ).read(len(SHARES))
    documents = []
    for row, share in enumerate(SHARES):
        length = max(1, min(int(rows.attention[row].sum()), int(share * context_length)))
        columns = (column[row, :length].tolist() for column in (rows.ids, rows.bos, rows.special))
        documents.append(Tokenized(*columns))
    for key, adapter in adapters.items():
        order = list(adapter.points())
        if not points.get(key):
            continue
        read = documents
        if vocabulary_of(adapter) != vocabulary_of(reading):
            text = reads_text(reading, "pairing models of different vocabularies").text
            read = [tokenized(adapter, Text(text(tokens.ids))).cut(0, context_length)[0] for tokens in documents]
            read = [tokens for tokens in read if tokens.ids]
        if not keeps_documents_apart(adapter, max(points[key], key=order.index), read):
            return False
    return True
