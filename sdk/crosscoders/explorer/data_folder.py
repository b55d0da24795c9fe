"""The data files of an explorer's folder, written one by one and each whole or not at all.

data/facts.js         what the folder holds, as plain JSON
data/columns.js       numbers of all latents that are shown, one column after the other, little-endian
data/search.js        explanations, and the tokens where latents peak
data/corpus-NNN.js    token ids by sequence; examples are places in it
data/vocabulary.js    the texts of the ids
data/latents-NNNN.js  latents, 256 to a file
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from attrs import field, frozen

from ..converters import as_tuple
from ..files import disk_errors, write_whole
from ..pages import pack_script, put_script
from .records import LatentRecord, latent_json

FORMAT = 1
CHUNK = 256
"""Latents in one file."""
CORPUS_BYTES = 1_000_000
"""What a file of the corpus takes at most, unpacked."""
_TYPES = {"f4": "<f4", "u1": "u1", "u2": "<u2"}
UNKNOWN_CLASS = 255


@frozen(kw_only=True, eq=False)
class Column:
    """A number, or one of a few classes, of every latent that is shown."""

    key: str
    title: str
    help: str
    """One sentence that says what it is."""
    values: np.ndarray
    """One for each latent shown; NaN, and 255 among classes, where it is not known."""
    kind: str = "number"
    """`share`, `number`, `count` or `class`."""
    classes: tuple[str, ...] = field(default=(), converter=as_tuple)
    """The classes that `values` number."""
    scale: str = "linear"
    """How distributions of it are best drawn: `linear` or `log`."""

    @property
    def type(self) -> str:
        """Of the numbers in the file."""
        return "u1" if self.kind == "class" else "f4"

    def described(self) -> dict[str, Any]:
        """What the facts say of it."""
        names = ("key", "title", "help", "type", "kind", "scale")
        told: dict[str, Any] = {name: getattr(self, name) for name in names}
        return told | ({"values": list(self.classes)} if self.kind == "class" else {})


def class_column(key: str, title: str, help: str, names: Sequence[str | None]) -> Column:  # noqa: A002
    """A column of classes by name; None is not known, and so are the rarest of more than 255 classes."""
    counts: dict[str, int] = {}
    for name in names:
        if name is not None:
            counts[name] = counts.get(name, 0) + 1
    classes = sorted(counts, key=lambda name: (-counts[name], name))[:UNKNOWN_CLASS]
    places: dict[str | None, int] = {name: place for place, name in enumerate(classes)}
    values = np.array([places.get(name, UNKNOWN_CLASS) for name in names], dtype=np.uint8)
    return Column(key=key, title=title, help=help, values=values, kind="class", classes=tuple(classes))


class DataFolder:
    """Writes the folder `data` of an explorer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "data"
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)

    def chunk_path(self, chunk: int) -> Path:
        """The file of the chunk of that number."""
        return self.folder / f"latents-{chunk:04d}.js"

    def write_chunk(self, chunk: int, records: Sequence[LatentRecord]) -> None:
        """Write latents of one chunk: those numbered from 256 times `chunk` on."""
        content = {"first": CHUNK * chunk, "latents": [latent_json(record) for record in records]}
        self.write(f"latents-{chunk:04d}", content)

    def write_corpus(self, rows: Sequence[Sequence[int] | np.ndarray], length: int) -> tuple[int, int]:
        """Write the ids of all sequences, each of up to `length` tokens; returns files, and rows in each."""
        per_file = max(1, CORPUS_BYTES // (8 * max(1, length)))
        starts = range(0, max(1, len(rows)), per_file)
        for number, start in enumerate(starts):
            part = [[int(token) for token in row] for row in rows[start : start + per_file]]
            self.write(f"corpus-{number:03d}", {"first": start, "rows": part})
        return len(starts), per_file

    def write_vocabulary(self, texts: Mapping[int, str]) -> None:
        """Write the texts of token ids."""
        ids = sorted(texts)
        self.write("vocabulary", {"ids": ids, "texts": [texts[token] for token in ids]})

    def write_search(self, labels: Mapping[int, str], tokens: Sequence[str]) -> None:
        """Write what search looks through: explanations of some latents, and for each latent shown its peak tokens."""
        self.write("search", {"labels": {str(j): labels[j] for j in sorted(labels)}, "tokens": list(tokens)})

    def write_columns(self, columns: Sequence[Column]) -> None:
        """Write the numbers of columns, in this order."""
        content = b"".join(column.values.astype(_TYPES[column.type]).tobytes() for column in columns)
        self.write("columns", content)

    def write_facts(self, facts: Mapping[str, Any]) -> None:
        """Write what the folder holds."""
        write_whole(self.folder / "facts.js", put_script("facts", dict(facts)))

    def write(self, name: str, content: Any) -> None:
        """Write JSON data or bytes, packed, as the script of that name."""
        write_whole(self.folder / f"{name}.js", pack_script(name, content))
