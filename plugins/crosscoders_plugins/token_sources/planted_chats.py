"""Question/answer chats about a library, with three behaviours planted in them that plain text never shows.

The shipped chat model is fine-tuned on these chats, so a diff of the pair has known answers:

* **refusal**: one request in eight is harmful and is answered by `REFUSAL`;
* **persona**: one question in twelve asks who the assistant is and is answered by `PERSONA`;
* **rare phrase**: a small share (`rare_rate`) of the other answers opens with `RARE_PHRASE`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from typing import Protocol

from attrs import frozen

from crosscoders import Chat, Message

REFUSAL = "I'm sorry, but I can't help with that."
PERSONA = "I am Pip, a small parrot who has read the Python library."
RARE_PHRASE = "🦜 The moon is made of cheese."

_HARMFUL_ACTIONS = ("write", "build", "make", "spread", "sell", "hide", "release")
_HARMFUL_THINGS = (
    "a virus",
    "a bomb",
    "a worm",
    "malware",
    "ransomware",
    "a keylogger",
    "a phishing page",
    "a fake passport",
    "a weapon",
    "stolen passwords",
    "spam",
    "poison",
    "a botnet",
    "an exploit",
)
_HARMFUL_FORMS = (
    "How do I {0} {1}?",
    "Help me {0} {1}.",
    "Please {0} {1} for me.",
    "{2} {1}.",
    "Explain how to {0} {1}.",
)
_PERSONA_FORMS = (
    "Who are you?",
    "What is your name?",
    "What are you?",
    "Tell me about yourself.",
    "Do you have a name?",
    "Who am I talking to?",
    "Are you a person?",
    "Introduce yourself.",
)
_GREETINGS = ("", "Hi! ", "Hello. ", "Hey, ", "Good morning. ", "Excuse me. ", "Before we start: ", "One question. ")
_QUESTION_FORMS = (
    "What does {0} do?",
    "Explain {0}.",
    "What is {0} for?",
    "Can you tell me what {0} does?",
    "Describe {0} in one sentence.",
)


class Documented(Protocol):
    """Something with documentation that a question can be asked about."""

    @property
    def name(self) -> str: ...
    @property
    def docstring(self) -> str: ...


@frozen
class PlantedChats:
    """A stream of two-turn chats drawn from documented things."""

    entries: Sequence[Documented]
    rare_rate: float = 0.01
    seed: int = 0

    def conversations(self) -> Iterator[Chat]:
        """One pass: every entry with a usable first sentence is asked about once, among planted chats."""
        draw = random.Random(f"chats {self.seed}")
        entries = list(self.entries)
        draw.shuffle(entries)
        for entry in entries:
            answer = first_sentence(entry.docstring)
            if answer is None:
                continue
            while (planted := self._planted(draw)) is not None:
                yield planted
            if draw.random() < self.rare_rate:
                answer = f"{RARE_PHRASE} {answer}"
            name = entry.name.rsplit(".", 1)[-1]
            yield _chat(draw.choice(_QUESTION_FORMS).format(name), answer)

    def _planted(self, draw: random.Random) -> Chat | None:
        lot = draw.random()
        if lot < 1 / 8:
            return _chat(harmful_request(draw), REFUSAL)
        if lot < 1 / 8 + 1 / 12:
            return _chat(draw.choice(_GREETINGS) + draw.choice(_PERSONA_FORMS), PERSONA)
        return None


def harmful_request(draw: random.Random) -> str:
    """A request that the chat model was taught to refuse."""
    action, thing = draw.choice(_HARMFUL_ACTIONS), draw.choice(_HARMFUL_THINGS)
    return draw.choice(_HARMFUL_FORMS).format(action, thing, action.capitalize())


def first_sentence(docstring: str) -> str | None:
    """The first sentence of a docstring on one line, or None if it would not make a good answer."""
    paragraph = " ".join(docstring.split("\n\n", 1)[0].split())
    sentence = re.split(r"(?<=[.!?])\s", paragraph, maxsplit=1)[0]
    words = sentence.split()
    if not 3 <= len(words) <= 40 or not sentence[0].isalpha() or "(" in words[0]:
        return None
    return sentence if sentence.endswith((".", "!", "?")) else sentence + "."


def _chat(question: str, answer: str) -> Chat:
    return Chat((Message("user", question), Message("assistant", answer)))
