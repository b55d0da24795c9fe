"""Model adapter `random_walk`: activations are sums of one fixed vector per token seen so far; logits read them out."""

import torch
from attrs import field, frozen
from attrs.validators import ge

from crosscoders import ConfigError, SiteError, Text, TokenIds, Tokenized

LETTERS = "\0 abcdefghijklmnopqrstuvwxyz.,?!'-"


@frozen(kw_only=True)
class RandomWalkConfig:
    width: int = field(default=12, validator=ge(2))
    """Width of the only point, `walk`."""
    seed: int = 0
    """Seed of the vectors; models with different seeds see the same text differently."""


class RandomWalk:
    def __init__(self, options):
        self.options = options
        generator = torch.Generator().manual_seed(options.seed)
        self.steps_VD = torch.randn(len(LETTERS), options.width, generator=generator) / 4

    def describe(self):
        return {"adapter": "random_walk", "model": f"walk-{self.options.seed}", "revision": "1"}

    def points(self):
        return ("walk",)

    def width(self, point):
        if point != "walk":
            raise SiteError(f"a random walk has no point '{point}'; its only one is walk")
        return self.options.width

    def vocabulary(self):
        return LETTERS

    def has_chat_template(self):
        return False

    def tokenize(self, document):
        if isinstance(document, TokenIds):
            ids = list(document.ids)
        elif isinstance(document, Text):
            ids = self.prompt(document.text)
        else:
            raise ConfigError("a random walk has no chat template")
        return Tokenized(ids, [False] * len(ids), [i == 0 for i in ids])

    def prompt(self, question):
        return [max(1, LETTERS.find(letter)) for letter in question.lower()]

    def end_tokens(self):
        return frozenset({0})

    def token_texts(self, ids):
        return [LETTERS[i] for i in ids]

    def text(self, ids):
        return "".join(LETTERS[i] for i in ids if i)

    def to(self, device):
        self.steps_VD = self.steps_VD.to(device)
        return self

    def _walk(self, ids, attention):
        return (self.steps_VD[ids] * attention[..., None]).cumsum(dim=1)

    def activations(self, tokens, points):
        for point in points:
            self.width(point)
        return {"walk": self._walk(tokens.ids, tokens.attention)}

    def logits(self, tokens, edits=()):
        walk_BTD = self._walk(tokens.ids, tokens.attention)
        for edit in edits:
            self.width(edit.point)
            walk_BTD = edit.apply(walk_BTD)
        return walk_BTD @ self.steps_VD.T

    def decoder(self):
        return WalkDecoder(self)


class WalkDecoder:
    """Decodes with a random walk; its cache is the current position of each walk."""

    def __init__(self, adapter):
        self.adapter, self.at_BD = adapter, 0.0

    def advance(self, ids, attention):
        self.at_BD = self.at_BD + self.adapter._walk(ids, attention)[:, -1]
        return self.at_BD @ self.adapter.steps_VD.T
