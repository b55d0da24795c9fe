"""Hugging Face datasets, streamed, so that nothing is downloaded whole. Needs the extra `crosscoders[datasets]`."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import field, frozen
from attrs.validators import min_len

from crosscoders import Chat, ConfigError, Text

from .chat_files import chat_of


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
    """Column of running text; ignored when `chat_column` is set."""
    chat_column: str = ""
    """Column of conversations: lists of role and content."""


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

    def documents(self, *, skip: int = 0) -> Iterator[Text | Chat]:
        """Yield the rows from number `skip` on; the library seeks if its files allow that."""
        for number, row in enumerate(self.dataset.skip(skip), start=skip):
            if self.config.chat_column:
                yield chat_of(row, self.config.chat_column, f"{self.config.path} row {number}")
            elif isinstance(row.get(self.config.text_column), str):
                yield Text(row[self.config.text_column])
            else:
                raise ConfigError(
                    f"{self.config.path} has no text in the column '{self.config.text_column}'; it has {', '.join(row)}"
                )
