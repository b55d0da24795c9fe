"""Small but complete objects for tests: a run on a planted world, and two Markov models with a planted rare word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from ..errors import ConfigError, SiteError
from ..models.adapter import Edit
from ..models.documents import Document, Text, TokenIds
from ..models.tokens import TokenBatch, Tokenized
from .place import device


def synthetic_run(output: str, *, world: Mapping[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """The config of a run on the planted pair that takes a few seconds; `changes` replace or extend its tables."""
    world = dict(
        world
        or {
            "num_shared": 12,
            "num_weak": 0,
            "num_shifted": 0,
            "num_only_a": 3,
            "num_only_b": 3,
            "width": 16,
            "min_rate": 0.03,
            "max_rate": 0.1,
        }
    )
    data: dict[str, Any] = {
        "models": {
            "base": {"name": "synthetic", "model": "a", "world": world},
            "chat": {"name": "synthetic", "model": "b", "world": world},
        },
        "sites": ["base/x", "chat/x"],
        "tokens": {"name": "synthetic", "length": 32},
        "architecture": {"name": "acausal", "num_latents": 32},
        "loss": {"name": "batchtopk", "k": 2},
        "activations": {
            "context_length": 32,
            "block_tokens": 2048,
            "calibration_tokens": 1024,
            "rows_per_forward": 16,
            "held_out_share": 0.25,  # of less, many more documents are read to find these
        },
        "training": {
            "num_tokens": 20_480,
            "batch_size": 256,
            "lr": 5e-3,
            "evaluation_tokens": 1024,
            "fidelity_tokens": 512,
        },
        "device": "cpu" if device().type == "cpu" else "auto",
        "output": output,
    }
    for key, value in changes.items():
        data[key] = {**data[key], **value} if isinstance(value, dict) and isinstance(data.get(key), dict) else value
    return data


@frozen(eq=False)
class MarkovModel:
    """A model adapter whose logits depend only on the last token, so that the odds under amplification are known.

    `logits_VV[i]` are the logits after token i; token 0 ends a text. The only point is `logits`.
    """

    logits_VV: Tensor
    words: tuple[str, ...]

    def describe(self) -> dict[str, Any]:
        return {"adapter": "markov", "model": "markov", "revision": "1"}

    def points(self) -> Sequence[str]:
        return ("logits",)

    def width(self, point: str) -> int:
        if point != "logits":
            raise SiteError(f"a Markov model has no point '{point}'; its only one is logits")
        return len(self.words)

    def vocabulary(self) -> str:
        return " ".join(self.words)

    def has_chat_template(self) -> bool:
        return False

    def tokenize(self, document: Document) -> Tokenized:
        if isinstance(document, TokenIds):
            ids = list(document.ids)
        elif isinstance(document, Text):
            ids = self.prompt(document.text)
        else:
            raise ConfigError("a Markov model has no chat template")
        return Tokenized(ids, [False] * len(ids), [i == 0 for i in ids])

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        return [self.words[i] + " " for i in ids]

    def prompt(self, question: str) -> list[int]:
        """The token ids of the question's words; unknown words become the last word of the vocabulary."""
        last = len(self.words) - 1
        return [self.words.index(word) if word in self.words else last for word in question.split()]

    def end_tokens(self) -> frozenset[int]:
        return frozenset({0})

    def text(self, ids: Sequence[int]) -> str:
        return " ".join(self.words[i] for i in ids)

    def to(self, device: torch.device) -> MarkovModel:
        return MarkovModel(self.logits_VV.to(device), self.words)

    def activations(self, tokens: TokenBatch, points: Sequence[str]) -> dict[str, Tensor]:
        for point in points:
            self.width(point)
        return {"logits": self.logits_VV[tokens.ids]}

    def logits(self, tokens: TokenBatch, edits: Sequence[Edit] = ()) -> Tensor:
        logits_BTV = self.logits_VV[tokens.ids]
        for edit in edits:
            self.width(edit.point)
            logits_BTV = edit.apply(logits_BTV)
        return logits_BTV

    def read_out(self, point: str, direction_KD: Tensor) -> Tensor:
        self.width(point)
        return direction_KD

    def decoder(self, edits: Sequence[Edit] = ()) -> MarkovDecoder:
        return MarkovDecoder(self, tuple(edits))


@frozen(eq=False)
class MarkovDecoder:
    """Decodes with a Markov model: only the last token matters."""

    model: MarkovModel
    edits: tuple[Edit, ...] = ()

    def advance(self, ids: Tensor, attention: Tensor) -> Tensor:
        logits_BTV = self.model.logits_VV[ids]
        for edit in self.edits:
            self.model.width(edit.point)
            logits_BTV = edit.apply(logits_BTV)
        return logits_BTV[:, -1]


def markov_pair(*, rate: float, base_rate: float = 1e-6, seed: int = 0) -> tuple[MarkovModel, MarkovModel]:
    """Two models, before and after: the second starts with the word `rare` at `rate` instead of `base_rate`."""
    words = ("<end>", "rare", "a", "b", "c", "<start>")
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(len(words), len(words), generator=generator)
    shared[:, 1] = shared[:, 5] = -30.0
    models = []
    for planted in (base_rate, rate):
        logits = shared.clone()
        rest = torch.logsumexp(torch.cat([shared[5, :1], shared[5, 2:]]), 0)
        logits[5, 1] = rest + torch.tensor(planted / (1 - planted)).log()
        models.append(MarkovModel(logits, words))
    return models[0], models[1]
