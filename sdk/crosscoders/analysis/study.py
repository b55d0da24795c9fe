"""A study: a crosscoder together with its models and tokens, the input of every analysis."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from typing import Any, Protocol, runtime_checkable

import torch
from attrs import frozen
from torch import Tensor

from ..activations import ActivationConfig, Harvester, keep_mask
from ..crosscoder.module import Crosscoder
from ..errors import AnalysisError, CrosscodersError
from ..models.adapter import ModelAdapter
from ..models.choice import choose_pack
from ..models.packing import Packing
from ..models.paired import make_reader
from ..models.sequences import PACKINGS, reading_adapter
from ..models.split import Split
from ..models.tokens import TokenBatch, TokenSource
from ..plugins.choices import AnalysisChoice, ModelChoice, TokenSourceChoice, structure
from ..plugins.registry import Registry, get_registry
from ..reports import Report
from .recipe import StudyRecipe


@frozen(eq=False)
class StudyBatch:
    """A few sequences with their activations."""

    first_sequence: int
    """The index of this batch's first row within the whole pass over the tokens."""
    tokens: TokenBatch
    x_BTX: Tensor
    """Raw activations of every token, including masked ones."""
    keep_BT: Tensor
    """Boolean mask of the tokens that count; the others are masked."""

    @property
    def x_BX(self) -> Tensor:
        """Raw activations of the tokens that count, row by row."""
        return self.x_BTX[self.keep_BT]

    @property
    def place_B2(self) -> Tensor:
        """Row within this batch and position of each token that counts."""
        return self.keep_BT.nonzero()


class Study:
    """The input of an analysis: a `crosscoder`, its models (`adapters`), held-out activations (`batches()`), a seed."""

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
        self._pack: bool | str | None = None

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
        trust_recipe: bool = False,
        say: Callable[[str], None] | None = None,
        registry: Registry | None = None,
    ) -> Study:
        """A study of a trained crosscoder, with the models and tokens that its checkpoint records.

        `models` (by key) and `tokens` replace what is recorded; each is a table `{"name": ..., **options}`, and a model
        may also be a Hub id or folder alone. What a recipe names on this machine is read only with `trust_recipe`, or
        where the crosscoder is of this user's own run. `say` is told what will be read, before it is.
        """
        registry = registry or get_registry()
        info = crosscoder.info
        recipe = dict(info.recipe) if info else {}
        chosen = StudyRecipe.of(crosscoder, models, tokens)
        chosen.check(trusted=trust_recipe or (info is not None and info.own), registry=registry)
        if say is not None:
            for line in chosen.lines():
                say(line)
        adapters = {
            key: structure(choice, ModelChoice, registry=registry).build(registry=registry)
            for key, choice in chosen.models.items()
        }
        source = structure(chosen.tokens, TokenSourceChoice, registry=registry).build(registry=registry)
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
        """Look up a model by key; `AnalysisError` lists the keys if there is no such model."""
        if key not in self.adapters:
            raise AnalysisError(f"there is no model '{key}'; there are {', '.join(self.adapters)}")
        return self.adapters[key]

    @property
    def pack(self) -> bool | str:
        """What the config's `pack` comes to with these models, which are tried on first use."""
        if self._pack is None:
            points: dict[str, list[str]] = {}
            for site in self.crosscoder.sites:
                points.setdefault(site.model, []).append(site.point)
            self._pack = choose_pack(
                self.source,
                self.adapters,
                self.reading,
                points,
                context_length=self.activations.context_length,
                pack=self.activations.pack,
                held_out_share=self.activations.held_out_share,
            )
        return self._pack

    @property
    def packing(self) -> Packing:
        """How documents share rows: `apart`, `single` or `across`."""
        return PACKINGS[self.pack]

    def with_tokens(self, num_tokens: int) -> Study:
        """The same study over a different number of tokens."""
        other = copy(self)
        other.num_tokens = num_tokens
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
        """Yield activations of about `num_tokens` tokens, or fewer if the token source ends sooner.

        Every call yields the same batches. Nothing is kept in memory between batches.
        """
        config = self.activations
        reader = make_reader(
            self.source,
            self.adapters,
            self.reading,
            context_length=config.context_length,
            pack=self.pack,
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
    """Turns a study (crosscoder, models, tokens) into a report."""

    def run(self, study: Study) -> Report:
        """Run the analysis and return its report; raises `AnalysisError` if it is not defined for this study."""


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

    Unless a `study` is given, the remaining options are those of `Study.of`: other models or tokens, how many tokens,
    the seed, and `trust_recipe`. If some analyses fail, the others run all the same, and `AnalysesFailed` has their
    reports.
    """
    study = study or Study.of(crosscoder, registry=registry, **options)
    chosen = [{"name": analysis} if isinstance(analysis, str) else analysis for analysis in analyses]
    choices = [structure(analysis, AnalysisChoice, registry=registry) for analysis in chosen]
    reports: list[Report] = []
    failures: list[tuple[str, Exception]] = []
    for choice in choices:
        try:
            reports.append(choice.build(registry=registry).run(study))
        except Exception as error:
            failures.append((_said(choice, error, registry), error))
    if failures:
        raise AnalysesFailed([text for text, _ in failures], reports) from failures[0][1]
    return reports


class AnalysesFailed(AnalysisError):  # noqa: N818
    """Some of several analyses failed; `reports` are those of the others, `failures` a line for each that failed."""

    def __init__(self, failures: Sequence[str], reports: Sequence[Report]) -> None:
        super().__init__("; ".join(failures))
        self.failures, self.reports = list(failures), list(reports)


def _said(choice: AnalysisChoice, error: Exception, registry: Registry | None) -> str:
    """Which analysis of which plugin failed, and why; only errors that are meant for users speak for themselves."""
    offer = choice.offer(registry)
    reason = str(error) if isinstance(error, CrosscodersError) else f"{type(error).__name__}: {error}"
    return f"the analysis '{choice.name}' of the plugin '{offer.provider.plugin}' failed: {reason}"
