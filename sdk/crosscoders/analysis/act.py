"""Acting through latents: steering and ablation.

Values of latents are those of the **unedited** models on the same tokens: a crosscoder may read other models, or later
layers, than those that are edited. Where a change needs values, tokens that training leaves out (BOS, outliers) stay as
they are, since latents say nothing about them; what is only added is added everywhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch
from attrs import field, frozen
from torch import Tensor

from ..activations import keep_mask
from ..crosscoder.edits import Change, parsed
from ..errors import AnalysisError
from ..models.adapter import Decoder, Edit
from ..models.capabilities import generates, gives_logits, reads_text, tokenized, vocabulary_of
from ..models.documents import TokenIds
from ..models.predictions import moves
from ..models.tokens import TokenBatch
from .effects import Effect, effect_of
from .generate import generate
from .inputs import Input, prompt_ids
from .passes import StudyBatch

WHILE = "generating text"
"""What asks a model for more than activations."""

if TYPE_CHECKING:
    from .study import Study


def sites_of(study: Study, model: str | None, sites: Sequence[str] | None) -> tuple[str, tuple[str, ...]]:
    """The model that is edited and the written sites in it: those named, or all of `model` (the last site's)."""
    written = study.crosscoder.written
    if sites:
        models = {site.model for site in written.subset(sites).sites}
        if len(models) > 1 or (model is not None and {model} != models):
            raise AnalysisError(f"the sites {', '.join(sites)} should be of one model, the one that runs")
        return models.pop(), tuple(sites)
    key = model or written.sites[-1].model
    found = tuple(site.name for site in written.sites if site.model == key)
    if not found:
        raise AnalysisError(f"no site of a model '{key}' is written; there are {', '.join(written.names)}")
    return key, found


class Acting(ABC):
    """A model that runs with some of its activations moved, for as many prompts and texts as wanted."""

    @property
    @abstractmethod
    def study(self) -> Study:
        """The study whose crosscoder and models these are."""

    @property
    @abstractmethod
    def model(self) -> str:
        """The model that runs."""

    @property
    @abstractmethod
    def points(self) -> tuple[str, ...]:
        """Where the activations move."""

    @property
    def needs_values(self) -> bool:
        """Whether the change depends on the latents' values, so that all models that are read have to run too."""
        return True

    @abstractmethod
    def moved(self, x_BTX: Tensor, keep_BT: Tensor) -> dict[str, Tensor]:
        """By point: how far the activations of all sites `x_BTX` move, (B, T, D); not at all where not kept."""

    def edits(self) -> list[Edit]:
        """The edits themselves, where they need no values: the same for every token."""
        raise AnalysisError("these changes depend on the latents' values, so they are other edits for each text")

    def logits(self, given: Input) -> Tensor:
        """Logits (B, T, V) for a text, chat, token ids or several, padded on the right, in the model's own tokens."""
        batch = self.study.batch(given)
        partner = batch.tokens.partners.get(self.model)
        if self.needs_values:
            rows = slice(0, len(batch.keep_BT))
            edits = moves(self.model, batch.tokens, rows, self.moved(batch.x_BTX, batch.keep_BT))
        else:
            edits = self.edits()
        adapter = gives_logits(self.study.adapter(self.model), "steering")
        return adapter.logits(partner.tokens if partner else batch.tokens, edits)

    def decoder(self) -> Decoder:
        """The changed model reading growing contexts."""
        if self.needs_values:
            return _ValuesDecoder(self)
        return generates(self.study.adapter(self.model), WHILE).decoder(self.edits())

    def generate(
        self, prompts: Any, *, max_new_tokens: int = 40, temperature: float = 0.0, seed: int = 0
    ) -> str | list[str]:
        """The changed model's answer to a question, or answers to a list of them, generated side by side.

        A string is a question, laid out by the chat template if there is one; `Text` and token ids are gone on from as
        they are. `temperature` 0 takes the most likely token.
        """
        adapter = self.study.adapter(self.model)
        several = isinstance(prompts, list | tuple) and not all(isinstance(item, int) for item in prompts)
        rows = [prompt_ids(prompt, adapter) for prompt in (prompts if several else [prompts])]
        found = self.answers(rows, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
        texts = [reads_text(adapter, WHILE).text(ids) for ids in found]
        return texts if several else texts[0]

    def answers(
        self, prompts: Sequence[Sequence[int]], *, max_new_tokens: int = 40, temperature: float = 0.0, seed: int = 0
    ) -> list[list[int]]:
        """Token ids of the answers to prompts that are token ids themselves; see `generate`."""
        return generate(
            self.decoder(),
            prompts,
            ends=generates(self.study.adapter(self.model), WHILE).end_tokens(),
            device=self.study.crosscoder.device,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
        )


@frozen(eq=False)
class Steered(Acting):
    """A model with latents changed at some sites."""

    study: Study = field(repr=False)
    changes: Mapping[int, Change]
    model: str
    sites: tuple[str, ...]
    keep_error: bool = True

    @property
    def points(self) -> tuple[str, ...]:
        """Where the activations move."""
        return tuple(site.partition("/")[2] for site in self.sites)

    @property
    def needs_values(self) -> bool:
        """Whether the change depends on the latents' values: adding does not, if the error is kept."""
        kinds = {kind for kind, _ in parsed(self.changes, self.study.crosscoder.num_latents).values()}
        return not self.keep_error or kinds - {"add"} != set()

    def moved(self, x_BTX: Tensor, keep_BT: Tensor) -> dict[str, Tensor]:
        """By point: how far the activations of all sites `x_BTX` move, (B, T, D); not at all where not kept."""
        crosscoder = self.study.crosscoder
        own = crosscoder.layout.unpack(x_BTX)
        found = {}
        for site, point in zip(self.sites, self.points, strict=True):
            change = crosscoder.change(self.changes, site=site, x=own, keep_error=self.keep_error)
            moved_BTD = change(own[site]) - own[site]
            found[point] = torch.where(keep_BT[..., None], moved_BTD, 0.0)
        return found

    def edits(self) -> list[Edit]:
        """The edits themselves, where they need no values: the same for every token."""
        crosscoder = self.study.crosscoder
        return [Edit.latents(crosscoder, self.changes, site=site, keep_error=self.keep_error) for site in self.sites]


class _ValuesDecoder:
    """Runs every model that the crosscoder reads beside the edited one, for the values of the latents."""

    def __init__(self, steered: Acting) -> None:
        study = steered.study
        self.steered, self.study = steered, study
        models = {site.model for site in study.crosscoder.sites}
        own = vocabulary_of(study.adapter(steered.model))
        alien = [key for key in models if vocabulary_of(study.adapter(key)) != own]
        if alien:
            raise AnalysisError(
                f"while generating, latents' values need models of one vocabulary, and {', '.join(sorted(alien))} has "
                "another; add to latents instead"
            )
        self._seen: dict[str, Tensor] = {}
        self._moved: dict[str, Tensor] = {}
        writers = {key: generates(study.adapter(key), WHILE) for key in sorted({*models, steered.model})}
        self.readers = {key: writers[key].decoder(self._recorders(key)) for key in sorted(models)}
        self.edited = writers[steered.model].decoder([Edit(point, self._mover(point)) for point in steered.points])

    def advance(self, ids: Tensor, attention: Tensor) -> Tensor:
        """Read the next tokens of every row."""
        self._seen.clear()
        for reader in self.readers.values():
            with suppress(_AllSeenError):
                reader.advance(ids, attention)
        layout = self.study.crosscoder.layout
        x_BTX = layout.pack({name: self._seen[name].float() for name in layout.names})
        adapter = self.study.adapter(self.steered.model)
        flags = [tokenized(adapter, TokenIds(tuple(row))) for row in ids.tolist()]
        bos, special = (
            torch.tensor([list(getattr(row, name)) for row in flags], dtype=torch.bool, device=ids.device)
            for name in ("bos", "special")
        )
        tokens = TokenBatch(ids, attention, bos, special)
        keep_BT = keep_mask(self.study.activations.masks, tokens, x_BTX, None)
        self._moved = self.steered.moved(x_BTX, keep_BT)
        return self.edited.advance(ids, attention)

    def _recorders(self, key: str) -> list[Edit]:
        """Edits that note what passes, the last of which ends the pass where the adapter's decoders allow that."""
        names = {site.name for site in self.study.crosscoder.sites if site.model == key}
        may_end = getattr(self.study.adapter(key), "decoders_may_end_early", False)

        def recorder(name: str) -> Any:
            def record(activation: Tensor) -> Tensor:
                self._seen[name] = activation
                if may_end and names <= self._seen.keys():
                    raise _AllSeenError
                return activation

            return record

        return [Edit(name.partition("/")[2], recorder(name)) for name in sorted(names)]

    def _mover(self, point: str) -> Any:
        return lambda activation: activation + self._moved[point].to(activation)


class _AllSeenError(Exception):
    """Raised by an edit to end a pass whose activations are all there."""


def change_effect(study: Study, steered: Acting, given: Input | None, title: str) -> Effect:
    """What a change of latents does to the next-token predictions of its model, on a text or the study's tokens."""

    def edits(batch: StudyBatch, rows: slice) -> list[list[Edit]]:
        moved = steered.moved(batch.x_BTX[rows], batch.keep_BT[rows])
        return [moves(steered.model, _rows(batch.tokens, rows), slice(None), moved)]

    batches = study.batches() if given is None else [study.batch(given)]
    return effect_of(title, batches, (steered.model, study.adapter(steered.model)), edits)


def _rows(tokens: TokenBatch, rows: slice) -> TokenBatch:
    return tokens.sequences(rows.start, rows.stop)
