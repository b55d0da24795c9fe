"""What a model can do beyond giving activations: asked where it is needed, and missed in words."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import evolve

from ..errors import ConfigError, DocumentError
from .adapter import Generates, GivesLogits, LanguageModel, MarksRoles, ModelAdapter, ReadsText
from .documents import Document, Text, TokenIds
from .tokens import Tokenized


def reads_text(adapter: ModelAdapter, what: str) -> ReadsText:
    """`adapter`, if it reads text; `ConfigError` says that `what` needs it, and which methods are missing."""
    if isinstance(adapter, ReadsText):
        return adapter
    raise _unable(adapter, ReadsText, "reads text", what)


def gives_logits(adapter: ModelAdapter, what: str) -> GivesLogits:
    """`adapter`, if it predicts tokens; `ConfigError` says that `what` needs it."""
    if isinstance(adapter, GivesLogits):
        return adapter
    raise _unable(adapter, GivesLogits, "gives logits", what)


def generates(adapter: ModelAdapter, what: str) -> Generates:
    """`adapter`, if it writes text; `ConfigError` says that `what` needs it, and which methods are missing."""
    if isinstance(adapter, Generates):
        return adapter
    raise _unable(adapter, Generates, "generates", what)


def language_model(adapter: ModelAdapter, what: str) -> LanguageModel:
    """`adapter`, if it reads, predicts and writes text; `ConfigError` says that `what` needs it."""
    if isinstance(adapter, LanguageModel):
        return adapter
    raise _unable(adapter, LanguageModel, "reads, predicts and writes text", what)


def _unable(adapter: ModelAdapter, capability: type, does: str, what: str) -> ConfigError:
    methods = [name for base in capability.__mro__ for name in vars(base) if not name.startswith("_")]
    missing = [name for name in methods if not callable(getattr(adapter, name, None))]
    return ConfigError(
        f"{what} needs a model that {does} ({capability.__name__}), but the adapter {type(adapter).__name__} of the "
        f"model '{adapter.describe().get('model')}' lacks {', '.join(missing)}"
    )


def vocabulary_of(adapter: ModelAdapter) -> str:
    """The fingerprint of what the ids mean; all models that read no text are taken to number the same samples."""
    return adapter.vocabulary() if isinstance(adapter, ReadsText) else ""


def lays_out_chats(adapter: ModelAdapter) -> bool:
    """Whether a model reads text and has a chat template."""
    return isinstance(adapter, ReadsText) and adapter.has_chat_template()


def tokenized(adapter: ModelAdapter, document: Document, roles: Sequence[str] = ()) -> Tokenized:
    """A document as ids; a model that tokenizes nothing takes `TokenIds` as they are, and no other document.

    With `roles`, the tokens of a conversation say whether they are of one of these. Running text has no roles, and
    counts; of ready ids they are not known, which is a `DocumentError`.
    """
    if not roles or isinstance(document, Text):
        return _tokenized(adapter, document)
    if isinstance(document, TokenIds):
        raise DocumentError("of ready token ids it is not known whose they are; leave out activations.masks.roles")
    tokens = _tokenized(adapter, document)
    if not isinstance(adapter, MarksRoles):
        raise _unable(adapter, MarksRoles, "knows whose the tokens of a conversation are", "activations.masks.roles")
    return evolve(tokens, wanted=adapter.tokens_of(document, roles))


def _tokenized(adapter: ModelAdapter, document: Document) -> Tokenized:
    if not isinstance(document, TokenIds):
        return reads_text(adapter, f"a document of the kind {type(document).__name__}").tokenize(document)
    if hasattr(adapter, "tokenize"):  # it knows which ids are special, whatever else it can or cannot do with text
        made: Tokenized = adapter.tokenize(document)
        return made
    none = [False] * len(document.ids)
    return Tokenized(list(document.ids), none, none)


def token_texts(adapter: ModelAdapter, ids: Sequence[int]) -> list[str]:
    """The text of each token; of a model that reads no text, its number with a space."""
    return adapter.token_texts(ids) if isinstance(adapter, ReadsText) else [f"{number} " for number in ids]
