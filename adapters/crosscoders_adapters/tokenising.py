"""From documents to the tokens of a Hugging Face tokenizer, the same on every day."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

from crosscoders import Chat, ConfigError, Document, DocumentError, Text, TokenIds, Tokenized

from .roles import tokens_of


class Tokenising:
    """A tokenizer with what chat templates may ask of the world: the date, and variables of the user's.

    `name` is the model's, for errors. Templates that ask for the date get `date`, not today's, so that the tokens of a
    run are those of its resumption and of its analyses.
    """

    def __init__(self, tokenizer: Any, name: str, *, date: str, variables: Mapping[str, Any]) -> None:
        self.tokenizer, self.name = tokenizer, name
        self.special: frozenset[int] = frozenset(tokenizer.all_special_ids) if tokenizer is not None else frozenset()
        self.bos: int | None = None
        if tokenizer is not None:
            self.bos = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.cls_token_id
        self.moment, self.variables = parse_date(date), dict(variables)

    @property
    def has_chat_template(self) -> bool:
        """Whether conversations can be laid out."""
        return self.tokenizer is not None and bool(self.tokenizer.chat_template)

    def tokenize(self, document: Document) -> Tokenized:
        """Tokens of a document; `DocumentError` where the tokenizer or its chat template refuses it."""
        if isinstance(document, TokenIds):
            ids = list(document.ids)
        elif isinstance(document, Text):
            ids = self.text_ids(document.text)
        elif isinstance(document, Chat):
            ids = self.chat_ids(_turns(document))
        return Tokenized(ids, [i == self.bos for i in ids], [i in self.special for i in ids])

    def tokens_of(self, chat: Chat, roles: Sequence[str]) -> list[bool]:
        """For each token of a chat, whether it is part of what one of `roles` says; `DocumentError` where that cannot
        be told."""
        return tokens_of(self, _turns(chat), roles)

    def prompt(self, question: str) -> list[int]:
        """Token ids of a user's question laid out so that the model answers next."""
        if not self.has_chat_template:
            return self.text_ids(question)
        return self.chat_ids([{"role": "user", "content": question}], add_generation_prompt=True)

    def text_ids(self, text: str) -> list[int]:
        """Ids of running text, with a beginning-of-sequence token if the tokenizer has one."""
        try:
            ids = self._ids(text)
        except (TypeError, ValueError, OverflowError) as error:
            raise DocumentError(f"the tokenizer of '{self.name}' refuses this text: {error}") from error
        return ids if self.bos is None else [self.bos, *ids]

    def _ids(self, text: str) -> list[int]:
        tokenizer = self.tokenizer
        if not _encodes_plainly(tokenizer):
            return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        # What the call above comes to, without the offset of each token: these take half the time of a long document.
        backend = tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = tokenizer.split_special_tokens
        return list(backend.encode_batch_fast([text], add_special_tokens=False)[0].ids)

    def chat_ids(self, turns: Sequence[Mapping[str, Any]], **options: Any) -> list[int]:
        """Ids of a conversation as the chat template lays it out."""
        return list(self._applied(turns, return_dict=True, **options)["input_ids"])

    def laid_out(self, turns: Sequence[Mapping[str, Any]], **options: Any) -> str:
        """The text of a conversation as the chat template lays it out."""
        return str(self._applied(turns, tokenize=False, **options))

    def marked_answers(self, turns: Sequence[Mapping[str, Any]]) -> list[bool]:
        """For each token, whether the template marks it as the model's; empty where the tokenizer cannot tell."""
        if not getattr(self.tokenizer, "is_fast", False):
            return []
        layout = self._applied(turns, return_dict=True, return_assistant_tokens_mask=True)
        return [bool(marked) for marked in layout["assistant_masks"]]

    def template(self) -> str:
        """The chat template that lays out conversations; empty where there is none."""
        if not self.has_chat_template:
            return ""
        template = self.tokenizer.chat_template
        return str(self.tokenizer.get_chat_template() if isinstance(template, dict) else template)

    def _applied(self, turns: Sequence[Mapping[str, Any]], **options: Any) -> Any:
        if not self.has_chat_template:
            raise ConfigError(f"the tokenizer of '{self.name}' has no chat template to lay out chats with")
        try:
            return self.tokenizer.apply_chat_template(
                list(turns),
                # Long chats are cut here, which needs no warning.
                tokenizer_kwargs={"verbose": False},
                **self._template(),
                **self.variables,
                **options,
            )
        except Exception as error:  # a template is a program, which can fail in any way
            roles = ", ".join(str(turn["role"]) for turn in turns[:8])
            raise DocumentError(
                f"the chat template of '{self.name}' refuses this chat (roles {roles}): {error}"
            ) from error

    def _template(self) -> dict[str, str]:
        """The chat template with a clock that stands still, if it looks at the clock."""
        template = self.template()
        return {"chat_template": standing_clock(self.moment) + template} if "strftime_now" in template else {}

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        """The text of each token by itself; of an id that only the model knows, its number: `<128300>`."""
        return [f"<{i}>" if i >= self._size else self.tokenizer.decode([i]) for i in ids]

    def text(self, ids: Sequence[int]) -> str:
        """The text of a sequence, special tokens left out."""
        return str(self.tokenizer.decode([i for i in ids if i < self._size], skip_special_tokens=True))

    @cached_property
    def _size(self) -> int:
        """The first id that the tokenizer has no token for; models' vocabularies are often padded beyond it."""
        return 1 + max(int(number) for number in self.tokenizer.get_vocab().values())


def _turns(chat: Chat) -> list[dict[str, Any]]:
    return [{"role": message.role, "content": message.content, **message.extra} for message in chat.messages]


def _encodes_plainly(tokenizer: Any) -> bool:
    """Whether a tokenizer does nothing to a text but hand it to its Rust backend: some families do."""
    from transformers import PreTrainedTokenizerFast

    return isinstance(tokenizer, PreTrainedTokenizerFast) and all(
        getattr(type(tokenizer), name) is getattr(PreTrainedTokenizerFast, name)
        for name in ("__call__", "_encode_plus")
    )


def standing_clock(moment: datetime) -> str:
    """The beginning of a template that lets `strftime_now` tell of `moment`, without a character of output.

    The library has no way to set the clock of a template and lets no function in; but a template may define one.
    """
    codes = [f"{minus}{letter}" for minus in ("-", "") for letter in "aAbBdeHIjmMpSyYFDTR"]
    told = "".join(f" | replace('%{code}', '{moment.strftime('%' + code)}')" for code in codes)
    return "{% macro strftime_now(format) -%}{{ format" + told + " }}{%- endmacro +%}"


def parse_date(date: str) -> datetime:
    """A day or moment in ISO 8601; `ConfigError` for anything else."""
    try:
        return datetime.fromisoformat(date)
    except (TypeError, ValueError):
        raise ConfigError(f"template_date should be a date such as 2024-07-26, not {date!r}") from None
