"""Acting through latents: steering, ablation, patching between models.

Values of latents are those of the **unedited** models on the same tokens: a crosscoder may read other models, or later
layers, than those that are edited. Where a change needs values, tokens that training leaves out (BOS, outliers) stay as
they are, since latents say nothing about them; what is only added is added everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from attrs import field, frozen
from torch import Tensor

from ..activations import keep_mask
from ..crosscoder.edits import Change, parsed
from ..crosscoder.latents import Latents
from ..errors import AnalysisError
from ..models.adapter import Decoder, Edit
from ..models.capabilities import generates, gives_logits, reads_text, tokenized, vocabulary_of
from ..models.documents import TokenIds
from ..models.predictions import moves, puts
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


@frozen(eq=False)
class Steered:
    """A model with latents changed at some sites, for as many prompts and texts as wanted."""

    study: Study = field(repr=False)
    changes: Mapping[int, Change]
    model: str
    sites: tuple[str, ...]
    keep_error: bool = True

    @property
    def needs_values(self) -> bool:
        """Whether the change depends on the latents' values, so that all models that are read have to run too."""
        kinds = {kind for kind, _ in parsed(self.changes, self.study.crosscoder.num_latents).values()}
        return not self.keep_error or kinds - {"add"} != set()

    def moved(self, x_BTX: Tensor, keep_BT: Tensor) -> dict[str, Tensor]:
        """By point: how far the activations of all sites `x_BTX` move, (B, T, D); not at all where not kept."""
        crosscoder = self.study.crosscoder
        own = crosscoder.layout.unpack(x_BTX)
        found = {}
        for site in self.sites:
            change = crosscoder.change(self.changes, site=site, x=own, keep_error=self.keep_error)
            moved_BTD = change(own[site]) - own[site]
            found[site.partition("/")[2]] = torch.where(keep_BT[..., None], moved_BTD, 0.0)
        return found

    def logits(self, given: Input) -> Tensor:
        """Logits (B, T, V) for a text, chat, token ids or several, padded on the right, in the model's own tokens."""
        batch = self.study.batch(given)
        partner = batch.tokens.partners.get(self.model)
        adapter, rows = self.study.adapter(self.model), slice(0, len(batch.keep_BT))
        edits = self.edits() if not self.needs_values else None
        if edits is None:
            edits = moves(self.model, batch.tokens, rows, self.moved(batch.x_BTX, batch.keep_BT))
        return gives_logits(adapter, "steering").logits(partner.tokens if partner else batch.tokens, edits)

    def edits(self) -> list[Edit]:
        """The edits themselves, where they need no values: the same for every token."""
        crosscoder = self.study.crosscoder
        return [Edit.latents(crosscoder, self.changes, site=site, keep_error=self.keep_error) for site in self.sites]

    def decoder(self) -> Decoder:
        """The steered model reading growing contexts."""
        if self.needs_values:
            return _ValuesDecoder(self)
        return generates(self.study.adapter(self.model), WHILE).decoder(self.edits())

    def generate(
        self, prompts: Any, *, max_new_tokens: int = 40, temperature: float = 0.0, seed: int = 0
    ) -> str | list[str]:
        """The steered model's answer to a question, or answers to a list of them, generated side by side.

        A string is a question, laid out by the chat template if there is one; `Text` and token ids are gone on from as
        they are. `temperature` 0 takes the most likely token.
        """
        adapter = self.study.adapter(self.model)
        several = isinstance(prompts, list | tuple) and not all(isinstance(item, int) for item in prompts)
        rows = [prompt_ids(prompt, adapter) for prompt in (prompts if several else [prompts])]
        found = generate(
            self.decoder(),
            rows,
            ends=generates(adapter, WHILE).end_tokens(),
            device=self.study.crosscoder.device,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
        )
        texts = [reads_text(adapter, WHILE).text(ids) for ids in found]
        return texts if several else texts[0]


class _ValuesDecoder:
    """Runs every model that the crosscoder reads beside the edited one, for the values of the latents."""

    def __init__(self, steered: Steered) -> None:
        study = steered.study
        self.steered, self.study = steered, study
        models = {site.model for site in study.crosscoder.sites}
        alien = [
            key for key in models if vocabulary_of(study.adapter(key)) != vocabulary_of(study.adapter(steered.model))
        ]
        if alien:
            raise AnalysisError(
                f"while generating, latents' values need models of one vocabulary, and {', '.join(sorted(alien))} has "
                "another; add to latents instead"
            )
        self._seen: dict[str, Tensor] = {}
        self._moved: dict[str, Tensor] = {}
        self.readers = {
            key: generates(study.adapter(key), WHILE).decoder(self._recorders(key)) for key in sorted(models)
        }
        points = [site.partition("/")[2] for site in steered.sites]
        edited = generates(study.adapter(steered.model), WHILE)
        self.edited = edited.decoder([Edit(point, self._mover(point)) for point in points])

    def advance(self, ids: Tensor, attention: Tensor) -> Tensor:
        """Read the next tokens of every row."""
        for reader in self.readers.values():
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
        def recorder(name: str) -> Any:
            def record(activation: Tensor) -> Tensor:
                self._seen[name] = activation
                return activation

            return record

        return [Edit(site.point, recorder(site.name)) for site in self.study.crosscoder.sites if site.model == key]

    def _mover(self, point: str) -> Any:
        return lambda activation: activation + self._moved[point].to(activation)


def change_effect(study: Study, steered: Steered, given: Input | None, title: str) -> Effect:
    """What a change of latents does to the next-token predictions of its model, on a text or the study's tokens."""

    def edits(batch: StudyBatch, rows: slice) -> list[list[Edit]]:
        moved = steered.moved(batch.x_BTX[rows], batch.keep_BT[rows])
        return [moves(steered.model, _rows(batch.tokens, rows), slice(None), moved)]

    batches = study.batches() if given is None else [study.batch(given)]
    return effect_of(title, batches, (steered.model, study.adapter(steered.model)), edits)


def _rows(tokens: TokenBatch, rows: slice) -> TokenBatch:
    return tokens.sequences(rows.start, rows.stop)


def patch_effect(
    study: Study,
    source: str,
    target: str,
    latents: Sequence[int] | None,
    *,
    upper: str | None,
    with_error: bool,
    given: Input | None,
) -> Effect:
    """See `Study.patch`."""
    crosscoder = study.crosscoder
    names = crosscoder.written.names
    points = [s.point for s in crosscoder.written.sites if s.model == source and f"{target}/{s.point}" in names]
    widths = {site.name: site.width for site in crosscoder.sites}
    points = [p for p in points if widths[f"{source}/{p}"] == widths[f"{target}/{p}"]]
    if not points:
        raise AnalysisError(
            f"a patch needs written sites at one point of {source} and {target}, of equal width; there are "
            f"{', '.join(names)}"
        )
    upper = upper or source
    if vocabulary_of(study.adapter(source)) != vocabulary_of(study.adapter(target)):
        raise AnalysisError(f"{source} and {target} have different vocabularies, so tokens cannot be patched")
    if upper not in (source, target):
        raise AnalysisError(f"the layers above are those of {source} or {target}, not of '{upper}'")
    chosen = list(range(crosscoder.num_latents)) if latents is None else list(latents)
    chosen_F = torch.zeros(crosscoder.num_latents, dtype=torch.bool, device=crosscoder.device)
    chosen_F[chosen] = True

    def edits(batch: StudyBatch, rows: slice) -> list[list[Edit]]:
        if rows.start == 0:
            values.update(_patched(study, batch, points, (source, target), chosen_F, with_error=with_error))
        return [puts(upper, batch.tokens, rows, values[arm], batch.keep_BT) for arm in ("with", "without")]

    values: dict[str, dict[str, Tensor]] = {}
    title = f"{len(chosen)} latents from {source} into {target}, layers above of {upper}"
    batches = study.batches() if given is None else [study.batch(given)]
    reference = None if upper == source else (source, study.adapter(source))
    return effect_of(title, batches, (upper, study.adapter(upper)), edits, reference=reference)


def _patched(
    study: Study,
    batch: StudyBatch,
    points: Sequence[str],
    models: tuple[str, str],
    chosen_F: Tensor,
    *,
    with_error: bool,
) -> dict[str, dict[str, Tensor]]:
    """By arm and point: x^target + Σ f (d^source − d^target) over the chosen latents, or over none, (B, T, D)."""
    crosscoder, keep_BT, found = study.crosscoder, batch.keep_BT, batch.latents

    def written(latents: Latents) -> dict[str, Tensor]:
        blocks_BX = crosscoder.decode_without_bias(latents)
        return crosscoder.split(crosscoder.normaliser.undo(blocks_BX, crosscoder.written.names))

    own, part = crosscoder.layout.unpack(batch.x_BTX), written(found.select(chosen_F[found.latent_N]))
    whole = written(found) if with_error else {}
    arms: dict[str, dict[str, Tensor]] = {"with": {}, "without": {}}
    for point in points:
        ours, theirs = (f"{model}/{point}" for model in models)
        step_BD = part[ours] - part[theirs]
        if with_error:
            # Everything that is not the latents': the two errors, biases and skips.
            step_BD = step_BD + (own[ours][keep_BT] - whole[ours]) - (own[theirs][keep_BT] - whole[theirs])
        arms["without"][point] = own[theirs]
        arms["with"][point] = own[theirs].index_put(keep_BT.nonzero(as_tuple=True), own[theirs][keep_BT] + step_BD)
    return arms
