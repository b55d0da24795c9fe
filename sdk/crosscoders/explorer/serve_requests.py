"""What the live pages may ask for: JSON of a browser, checked before any model sees it."""

from __future__ import annotations

from math import isfinite
from typing import Any

from attrs import frozen

from ..crosscoder.edits import KINDS, Change
from ..crosscoder.latents import known_latents
from ..errors import AnalysisError, listed, shown
from ..models.documents import Chat, Document, Message, Text
from ..reading import parse_json

LONGEST_TEXT = 8_000
"""Characters of a text, or of all messages of a conversation together."""
MOST_CHANGES = 64
MOST_MESSAGES = 64
MOST_NEW_TOKENS = 256
LARGEST = 1e6
"""Magnitude of any number."""


@frozen(kw_only=True)
class LatentsRequest:
    """Which latents are active on a text or conversation."""

    document: Document
    top: int
    """Strongest latents of each token."""

    @classmethod
    def of(cls, content: bytes) -> LatentsRequest:
        """From JSON: `text` or `messages` (`role`, `content`), and `top`. `AnalysisError` says what is wrong."""
        fields = _Fields(content, "text", "messages", "top")
        if ("text" in fields.data) == ("messages" in fields.data):
            raise AnalysisError("pass either text or messages")
        document: Document = Text(fields.text("text")) if "text" in fields.data else Chat(fields.messages("messages"))
        return cls(document=document, top=int(fields.number("top", 8, low=1, high=64, whole=True)))


@frozen(kw_only=True)
class Amplify:
    """What is amplified, and how strongly."""

    alpha: float
    of: str
    """`latents`: α Σ f (d_after − d_before) in the activations; `logits`: α (logits_after − logits_before)."""
    latents: tuple[int, ...] | None
    """None for all."""


@frozen(kw_only=True)
class GenerateRequest:
    """Answers of models as they are, and with latents changed or differences amplified."""

    text: str
    as_it_is: bool
    """Whether models go on from the text itself; otherwise it is a question, laid out as each model wants it."""
    models: tuple[str, ...] | None
    """Keys; None for all that can answer."""
    changes: dict[int, Change]
    amplify: Amplify | None
    max_new_tokens: int
    temperature: float
    seed: int

    @classmethod
    def of(cls, content: bytes, num_latents: int) -> GenerateRequest:
        """From JSON with the attributes' names; `changes` are `{"latent", "kind", "value"}`, kind one of add, scale,
        clamp, ablate; `amplify` is `{"alpha", "of", "latents"}`. `AnalysisError` and `LatentError` say what is wrong.
        """
        fields = _Fields(
            content, "text", "as_it_is", "models", "changes", "amplify", "max_new_tokens", "temperature", "seed"
        )
        changes = _changes(fields.data.get("changes") or [], num_latents)
        amplify = None
        if fields.data.get("amplify") is not None:
            amplify = _amplify(fields.data["amplify"], num_latents)
        if changes and amplify:
            raise AnalysisError("either change latents or amplify the difference, not both at once")
        models = fields.data.get("models")
        if models is not None and not (isinstance(models, list) and all(isinstance(key, str) for key in models)):
            raise AnalysisError(f"models should be a list of keys, and is {shown(models)}")
        return cls(
            text=fields.text("text"),
            as_it_is=fields.data.get("as_it_is") is True,
            models=None if models is None else tuple(models[:MOST_CHANGES]),
            changes=changes,
            amplify=amplify,
            max_new_tokens=int(fields.number("max_new_tokens", 40, low=1, high=MOST_NEW_TOKENS, whole=True)),
            temperature=fields.number("temperature", 0.0, low=0.0, high=10.0),
            seed=int(fields.number("seed", 0, low=0, high=2**31, whole=True)),
        )


class _Fields:
    """A table from JSON whose keys are all known."""

    def __init__(self, content: bytes | Any, *known: str, what: str = "a request") -> None:
        data = parse_json(content, "the request", AnalysisError) if isinstance(content, bytes) else content
        if not isinstance(data, dict):
            raise AnalysisError(f"{what} should be a table (a JSON object), and is {shown(data)}")
        surplus = sorted(set(data) - set(known))
        if surplus:
            raise AnalysisError(
                f"{what} has no {listed([shown(key) for key in surplus], ', ')}; known: {', '.join(known)}"
            )
        self.data: dict[str, Any] = data
        self.what = what

    def text(self, key: str) -> str:
        value = self.data.get(key)
        if not isinstance(value, str) or not value.strip():
            raise AnalysisError(f"{key} should be a text with something in it")
        return _short(value, key)

    def messages(self, key: str) -> tuple[Message, ...]:
        value = self.data[key]
        whole = isinstance(value, list) and value and all(
            isinstance(each, dict) and each.keys() == {"role", "content"} and isinstance(each["content"], str)
            for each in value
        )  # fmt: skip
        if not whole:
            raise AnalysisError(f"{key} should be a list of tables with role and content, and is {shown(value)}")
        if len(value) > MOST_MESSAGES:
            raise AnalysisError(f"{key} should be {MOST_MESSAGES} at most, and there are {len(value)}")
        _short("".join(each["content"] for each in value), key)
        try:
            return tuple(Message(each["role"], each["content"]) for each in value)
        except ValueError as error:
            raise AnalysisError(f"{key} has a role that nobody speaks in: {error.args[0]}") from error

    def number(self, key: str, default: float | None, *, low: float, high: float, whole: bool = False) -> float:
        value = self.data.get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not isfinite(value):
            raise AnalysisError(f"{key} of {self.what} should be a number, and is {shown(value)}")
        if not low <= value <= high or (whole and value != int(value)):
            kind = "a whole number" if whole else "a number"
            raise AnalysisError(f"{key} of {self.what} should be {kind} from {low:g} to {high:g}, and is {value:g}")
        return value


def _short(text: str, key: str) -> str:
    if len(text) > LONGEST_TEXT:
        raise AnalysisError(f"{key} should have {LONGEST_TEXT:,} characters at most, and has {len(text):,}")
    return text


def _changes(data: Any, num_latents: int) -> dict[int, Change]:
    if not isinstance(data, list) or len(data) > MOST_CHANGES:
        raise AnalysisError(f"changes should be a list of {MOST_CHANGES} at most")
    found: dict[int, Change] = {}
    for each in data:
        fields = _Fields(each, "latent", "kind", "value", what="a change")
        latent, kind = _latent(fields.data.get("latent"), num_latents), fields.data.get("kind")
        if latent in found:
            raise AnalysisError(f"latent {latent} is changed twice")
        if kind == "ablate":
            found[latent] = "ablate"
        elif kind in KINDS:
            found[latent] = (kind, fields.number("value", None, low=-LARGEST, high=LARGEST))
        else:
            raise AnalysisError(
                f"the kind of a change should be one of {', '.join((*KINDS, 'ablate'))}, not {shown(kind)}"
            )
    return found


def _amplify(data: Any, num_latents: int) -> Amplify:
    fields = _Fields(data, "alpha", "of", "latents", what="amplify")
    of, latents = fields.data.get("of", "latents"), fields.data.get("latents")
    if of not in ("latents", "logits"):
        raise AnalysisError(f"amplify is of latents or of logits, not of {shown(of)}")
    if latents is not None and not (isinstance(latents, list) and len(latents) <= num_latents):
        raise AnalysisError("latents of amplify should be a list, or null for all")
    if latents is not None and of == "logits":
        raise AnalysisError("logits are amplified as a whole: leave out latents")
    chosen = None if latents is None else tuple(_latent(each, num_latents) for each in latents)
    return Amplify(alpha=fields.number("alpha", None, low=-LARGEST, high=LARGEST), of=of, latents=chosen)


def _latent(value: Any, num_latents: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise AnalysisError(f"a latent should be a number of one, and is {shown(value)}")
    return known_latents(value, num_latents)[0]
