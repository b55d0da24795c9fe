"""A study: a crosscoder together with its models and tokens, which analyses are run on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from attrs import frozen
from torch import Tensor

from ..activations import ActivationConfig, Harvester, keep_mask
from ..crosscoder.module import Crosscoder
from ..errors import AnalysisError
from ..models.adapter import ModelAdapter
from ..models.paired import make_reader
from ..models.sequences import Split, reading_adapter
from ..models.tokens import TokenBatch, TokenSource
from ..plugins.choices import AnalysisChoice, ModelChoice, TokenSourceChoice, structure
from ..plugins.registry import Registry, get_registry
from ..reports import Report


@frozen(eq=False)
class StudyBatch:
    """Some sequences with their activations."""

    first_sequence: int
    """Number of the first row in the whole pass."""
    tokens: TokenBatch
    x_BTX: Tensor
    """Raw activations of every token, also of those that are left out."""
    keep_BT: Tensor
    """Boolean: tokens that count."""

    @property
    def x_BX(self) -> Tensor:
        """Raw activations of the tokens that count, row by row."""
        return self.x_BTX[self.keep_BT]

    @property
    def place_B2(self) -> Tensor:
        """Row within this batch and position of each token that counts."""
        return self.keep_BT.nonzero()


class Study:
    """What an analysis gets: `crosscoder`, `adapters`, held-out activations by `batches()`, a seed."""

    def __init__(
        self,
        crosscoder: Crosscoder,
        adapters: Mapping[str, ModelAdapter],
        source: TokenSource,
        *,
        activations: ActivationConfig | None = None,
        num_tokens: int = 65_536,
        seed: int = 0,
        reading: ModelAdapter | None = None,
        split: Split = "held_out",
    ) -> None:
        activations = activations or ActivationConfig()
        self.crosscoder, self.adapters, self.source = crosscoder, dict(adapters), source
        self.activations, self.num_tokens, self.seed = activations, num_tokens, seed
        self.reading = reading or reading_adapter(self.adapters)
        self.split: Split = split if activations.held_out_share else "train"
        self._median_norm_S: Tensor | None = None

    @classmethod
    def of(
        cls,
        crosscoder: Crosscoder,
        *,
        models: Mapping[str, Any] | None = None,
        tokens: Mapping[str, Any] | None = None,
        num_tokens: int = 65_536,
        seed: int = 0,
        split: Split = "held_out",
        registry: Registry | None = None,
    ) -> Study:
        """The study of a trained crosscoder, its models and tokens as its checkpoint records them.

        `models` (by key) and `tokens` take the place of what is recorded, each `{"name": ..., **options}`.
        """
        registry = registry or get_registry()
        info = crosscoder.info
        recipe = dict(info.recipe) if info else {}
        models = {**recipe.get("models", {}), **(models or {})}
        tokens = tokens or recipe.get("tokens")
        missing = {site.model for site in crosscoder.sites} - set(models)
        if missing or tokens is None:
            raise AnalysisError(
                f"the crosscoder records no {', '.join(sorted(missing)) or 'tokens'}; pass models= and tokens="
            )
        adapters = {
            key: structure(choice, ModelChoice, registry=registry).build(registry=registry)
            for key, choice in models.items()
        }
        source = structure(tokens, TokenSourceChoice, registry=registry).build(registry=registry)
        activations = structure(recipe.get("activations", {}), ActivationConfig, registry=registry)
        for adapter in adapters.values():
            adapter.to(crosscoder.device)
        return cls(
            crosscoder,
            adapters,
            source,
            activations=activations,
            num_tokens=num_tokens,
            seed=seed,
            reading=reading_adapter(adapters, recipe.get("tokenizer", "")),
            split=split,
        )

    def adapter(self, key: str) -> ModelAdapter:
        """A model by key; `AnalysisError` names those there are."""
        if key not in self.adapters:
            raise AnalysisError(f"there is no model '{key}'; there are {', '.join(self.adapters)}")
        return self.adapters[key]

    def with_tokens(self, num_tokens: int) -> Study:
        """The same study over another number of tokens."""
        other = Study.__new__(Study)
        other.__dict__.update(self.__dict__, num_tokens=num_tokens)
        return other

    @torch.no_grad()
    def estimate_normalisation(self, num_tokens: int = 16_384) -> None:
        """Give the sites whose scale no file says √D / mean‖x‖ of these tokens; others stay as they are."""
        normaliser, layout = self.crosscoder.normaliser, self.crosscoder.layout
        sums, count = dict.fromkeys(normaliser.unknown, 0.0), 0
        for batch in self.with_tokens(num_tokens).batches() if sums else ():
            x_BX = batch.x_BX
            count += len(x_BX)
            for name in sums:
                sums[name] += float(x_BX[:, layout.slices[name]].double().norm(dim=1).sum())
        if sums and not count:
            raise AnalysisError("no token counts, so no normalisation can be estimated")
        for name, total in sums.items():
            width = layout.subset([name]).width
            normaliser.set_scales({name: width**0.5 * count / total})

    def batches(self) -> Iterator[StudyBatch]:
        """Activations of about `num_tokens` tokens, the same on every call, fewer where the source ends before.

        Nothing is kept between batches.
        """
        config = self.activations
        reader = make_reader(
            self.source,
            self.adapters,
            self.reading,
            context_length=config.context_length,
            pack=config.pack,
            split=self.split,
            held_out_share=config.held_out_share,
            repeat=False,
        )
        harvester = Harvester(
            self.adapters,
            self.crosscoder.layout,
            rows_per_forward=config.rows_per_forward,
            device=self.crosscoder.device,
        )
        num_sequences = -(-self.num_tokens // config.context_length)
        for first in range(0, num_sequences, config.rows_per_forward):
            tokens = reader.read(min(config.rows_per_forward, num_sequences - first)).to(self.crosscoder.device)
            if not len(tokens.ids):
                return
            x_BTX = harvester(tokens)
            norms_BTS = harvester.norms(x_BTX)
            if self._median_norm_S is None:
                plain_BT = keep_mask(config.masks, tokens, norms_BTS, None)
                self._median_norm_S = norms_BTS[plain_BT].median(dim=0).values
            keep_BT = keep_mask(config.masks, tokens, norms_BTS, self._median_norm_S)
            yield StudyBatch(first, tokens, x_BTX, keep_BT)


@runtime_checkable
class Analysis(Protocol):
    """From a study (crosscoder, models, tokens) to a report."""

    def run(self, study: Study) -> Report:
        """Do the analysis; `AnalysisError` where it is not defined."""


@torch.no_grad()
def analyse(
    crosscoder: Crosscoder,
    analyses: Sequence[str | Mapping[str, Any]] = ("decoder_norms", "latent_scaling"),
    *,
    study: Study | None = None,
    registry: Registry | None = None,
    **options: Any,
) -> list[Report]:
    """Run analyses by name, or by `{"name": ..., **options}`, and return their reports.

    Further options are those of `Study.of`: other models or tokens, how many tokens, the seed.
    """
    study = study or Study.of(crosscoder, registry=registry, **options)
    chosen = [{"name": analysis} if isinstance(analysis, str) else analysis for analysis in analyses]
    choices = [structure(analysis, AnalysisChoice, registry=registry) for analysis in chosen]
    return [choice.build(registry=registry).run(study) for choice in choices]
