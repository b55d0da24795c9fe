"""Whose the tokens of a conversation are, told from how its chat template lays it out.

An answer is what the template itself marks (`{% generation %}`). Where it marks nothing, an answer is what follows the
prompt for it, up to where the layout of the conversation so far ends; both have to be beginnings of the whole. Where
they are not, and for other roles, it is the content alone: the template is asked again with a word of ours in its
place, which must come out once, and nothing else may change. What none of this tells is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

from crosscoders import DocumentError

if TYPE_CHECKING:
    from .tokenising import Tokenising

GENERATION = re.compile(r"\{%-?\+?\s*generation\s*[-+]?%\}")
"""Where a template begins to mark what the model writes."""

Turn = Mapping[str, Any]
Span = tuple[int, int]
"""Where in a text something begins and ends, in characters."""


def tokens_of(tokenising: Tokenising, turns: Sequence[Turn], roles: Sequence[str]) -> list[bool]:
    """For each token of a laid out conversation, whether it is part of what one of `roles` says."""
    ids = tokenising.chat_ids(turns)
    chosen = [False] * len(ids)
    numbers = [number for number, turn in enumerate(turns) if turn["role"] in roles]
    answers = [number for number in numbers if turns[number]["role"] == "assistant"]
    if answers and GENERATION.search(tokenising.template()):
        marked = tokenising.marked_answers(turns)
        # A template may mark answers of some kinds only.
        if len(marked) == len(ids) and any(marked):
            chosen = marked
            numbers = [number for number in numbers if number not in answers]
    if not numbers:
        return chosen
    text = tokenising.laid_out(turns)
    offsets = _offsets(tokenising, text, ids)
    for number in numbers:
        begin, end = _span(tokenising, text, turns, number)
        chosen = [
            before or (first < end and last > begin) for before, (first, last) in zip(chosen, offsets, strict=True)
        ]
    return chosen


def _offsets(tokenising: Tokenising, text: str, ids: Sequence[int]) -> Sequence[Span]:
    """Where in the text each token is."""
    if not getattr(tokenising.tokenizer, "is_fast", False):
        raise _refusal(tokenising, "its tokenizer does not say where in a text a token is (it is not a fast one)")
    found = tokenising.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    if list(found["input_ids"]) != list(ids):
        raise _refusal(tokenising, "its tokenizer reads the laid out text otherwise than the chat")
    offsets: Sequence[Span] = found["offset_mapping"]
    return offsets


def _span(tokenising: Tokenising, text: str, turns: Sequence[Turn], number: int) -> Span:
    """Where a turn is in the text of the whole conversation."""
    if turns[number]["role"] != "assistant" or not number:
        return _content(tokenising, text, turns, number)
    try:
        prompt = tokenising.laid_out(turns[:number], add_generation_prompt=True)
        prompted = prompt != tokenising.laid_out(turns[:number])
        end = tokenising.laid_out(turns[: number + 1])
    except DocumentError:  # the template refuses conversations that end there
        return _content(tokenising, text, turns, number)
    if not (text.startswith(end) and end.startswith(prompt)):
        return _content(tokenising, text, turns, number)
    # A template that knows no prompt may have a header for answers, which is not the model's.
    says = bool(turns[number]["content"])
    begin = len(prompt) if prompted or not says else _content(tokenising, text, turns, number)[0]
    return begin, len(end)


def _content(tokenising: Tokenising, text: str, turns: Sequence[Turn], number: int) -> Span:
    content = str(turns[number]["content"])
    what = f"turn {number + 1} ({turns[number]['role']})"
    if not content.strip():
        if turns[number]["role"] == "assistant" and set(turns[number]) > {"role", "content"}:
            raise _refusal(tokenising, f"{what} has no text, and what else it says cannot be told from the layout")
        return 0, 0
    word = next(word for word in _words() if word not in text)
    try:
        other = tokenising.laid_out([*turns[:number], {**turns[number], "content": word}, *turns[number + 1 :]])
    except DocumentError as error:
        raise _refusal(tokenising, f"another content of {what} is refused: {error}") from error
    before, _, after = other.partition(word)
    if other.count(word) != 1 or not text.startswith(before) or not text.endswith(after):
        raise _refusal(tokenising, f"more changes in the layout than the content of {what}, when that is another")
    if len(before) + len(after) > len(text):
        raise _refusal(tokenising, f"the content of {what} has no place of its own in the layout")
    return len(before), len(text) - len(after)


def _words() -> Iterator[str]:
    """Words that no template treats in a way of its own."""
    return (f"placeholder{number}" for number in count())


def _refusal(tokenising: Tokenising, reason: str) -> DocumentError:
    return DocumentError(
        f"whose the tokens of this chat are cannot be told from the chat template of '{tokenising.name}': {reason}; a "
        "template with {% generation %} around answers tells it, and without activations.masks.roles it does not matter"
    )
