"""Hugging Face datasets, streamed, so that nothing is downloaded whole. Needs the extra `crosscoders[datasets]`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from attrs import field, frozen
from attrs.validators import in_, min_len

from crosscoders import BadRow, Chat, ConfigError, Origin, Text, TokenIds

from .rows import BAD_ROWS, chat_of, ids_of, text_of


@frozen(kw_only=True)
class HfDatasetConfig:
    """A dataset of the Hub, or a local folder or file type that the datasets library reads."""

    path: str = field(validator=min_len(1))
    """Hub id, local folder, or a builder such as `json`."""
    subset: str = ""
    """Configuration name, where the dataset has several."""
    data_files: tuple[str, ...] = ()
    """The data files, for builders such as `json`."""
    split: str = "train"
    """The split to read."""
    revision: str = "main"
    """Branch, tag or commit of the dataset."""
    text_column: str = "text"
    """Column of running text; ignored when `chat_column` or `ids_column` is set."""
    chat_column: str = ""
    """Column of conversations: lists of role and content."""
    ids_column: str = ""
    """Column of token ids, for text that was tokenised before, with the tokenizer of the model; of rows that were
    padded, those that the column `attention_mask` has a 1 for are taken."""
    bad_rows: str = field(default="stop", validator=in_(BAD_ROWS))
    """`stop` at a row without text, conversation or ids, or one that the model or its chat template refuses, or `skip`
    and count it."""

    def __attrs_post_init__(self) -> None:
        if self.chat_column and self.ids_column:
            raise ConfigError("a dataset is read by its chat_column or by its ids_column, not by both")


class HfDataset:
    """Token source `hf_dataset`."""

    def __init__(self, config: HfDatasetConfig) -> None:
        try:
            from datasets import load_dataset
        except ImportError as error:
            raise ConfigError("the token source 'hf_dataset' needs the extra crosscoders[datasets]") from error
        self.config = config
        try:
            self.dataset = load_dataset(
                config.path,
                config.subset or None,
                data_files=list(config.data_files) or None,
                split=config.split,
                revision=config.revision if not config.data_files else None,
                streaming=True,
            )
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot open the dataset '{config.path}': {error}") from error

    def documents(self, *, skip: int = 0) -> Iterator[Text | Chat | TokenIds | BadRow]:
        """Yield the rows from number `skip` on; the library seeks if its files allow that."""
        number = skip
        for row in self._rows(skip):
            origin = Origin(f"{self.config.path} row {number}", self.config.bad_rows)
            if self.config.ids_column:
                yield ids_of(row, self.config.ids_column, origin)
            elif self.config.chat_column:
                yield chat_of(row, self.config.chat_column, origin)
            else:
                yield text_of(row, self.config.text_column, origin)
            number += 1

    def _rows(self, skip: int) -> Iterator[Any]:
        """The library's rows. What fails in it cannot be passed over: it gives no row after that."""
        number, rows = skip, None
        while True:
            try:
                rows = rows if rows is not None else iter(self.dataset.skip(skip))
                row = next(rows)
            except StopIteration:
                return
            except Exception as error:  # of the files, the network, or any of the library's readers
                raise ConfigError(
                    f"the dataset '{self.config.path}' cannot be read from row {number} on: {_first_line(error)}"
                ) from error
            yield row
            number += 1


def _first_line(error: BaseException) -> str:
    """What went wrong in a line: the cause, where the library only says that something did."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
