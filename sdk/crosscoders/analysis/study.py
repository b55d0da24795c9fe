"""A study: a crosscoder together with its models and tokens, the input of every analysis."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, TypeVar

import attrs
import torch
from torch import Tensor

from ..activations import ActivationConfig, Harvester, keep_mask
from ..crosscoder.edits import Change, parsed
from ..crosscoder.explanations import read_explanations
from ..crosscoder.latents import known_latents
from ..crosscoder.module import Crosscoder
from ..devices import accumulator, precise
from ..errors import AnalysisError
from ..models.adapter import ModelAdapter
from ..models.choice import choose_pack
from ..models.in_common import built_together
from ..models.packing import Packing
from ..models.paired import make_reader
from ..models.sequences import PACKINGS, reading_adapter
from ..models.split import Split
from ..models.tokens import TokenSource
from ..plugins.choices import ModelChoice, TokenSourceChoice, structure
from ..plugins.registry import Registry, get_registry
from ..reports import Example, Examples, Table
from ..training.evaluate import Metrics, evaluate
from ..training.fidelity import spliced_losses
from .act import Steered, change_effect, sites_of
from .census import Census, census
from .effects import Effect
from .examples import activity
from .explaining import keep_explanations
from .inputs import Input, token_rows
from .latent_cache import write_latents
from .logits import logit_effects
from .look import TokenLatents, find, token_latents
from .passes import MEMORY, Passes, StudyBatch, version_of
from .patching import Amplified, Arm, Patching, patch_effect
from .recipe import StudyRecipe, chosen_metrics
from .scales import estimate_scales
from .watching import watched

T = TypeVar("T")


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
        memory: int = MEMORY,
        folder: str | Path | None = None,
        quiet: bool = True,
        registry: Registry | None = None,
    ) -> None:
        activations = activations or ActivationConfig()
        self.crosscoder, self.adapters, self.source = crosscoder, dict(adapters), source
        self.activations, self.num_tokens, self.seed = activations, num_tokens, seed
        self.reading = reading or reading_adapter(self.adapters)
        self.registry = registry
        self.split: Split = split if activations.held_out_share else "train"
        self.memory, self.folder = memory, None if folder is None else Path(folder)
        self.quiet, self.doing = quiet, "reading"
        known = crosscoder.info.explanations if crosscoder.info else {}
        self.explanations: dict[int, str] = {j: entry["explanation"] for j, entry in known.items()}
        """What latents respond to, in words; at first what stands beside the crosscoder. See `explain`."""
        # Shared with the same study over other numbers of tokens.
        self._shared: dict[Any, Any] = {}
        self._pack: bool | str | None = None

    @classmethod
    def of(
        cls,
        crosscoder: Crosscoder,
        *,
        models: Mapping[str, Any] | None = None,
        tokens: Mapping[str, Any] | TokenSource | None = None,
        num_tokens: int = 65_536,
        seed: int = 0,
        split: Split = "held_out",
        memory: int = MEMORY,
        folder: str | Path | None = None,
        quiet: bool = True,
        trust_recipe: bool = False,
        say: Callable[[str], None] | None = None,
        registry: Registry | None = None,
    ) -> Study:
        """A study of a trained crosscoder, with the models and tokens that its checkpoint records.

        `models` (by key) and `tokens` replace what is recorded; each is a table `{"name": ..., **options}`, and a model
        may also be a Hub id or folder alone, or an adapter, such as `TransformersAdapter.wrap` makes of one in memory;
        tokens may be a token source. What a recipe names on this machine is read only with `trust_recipe`, or where the
        crosscoder is of this user's own run. `say` is told what will be read, before it is; unless `quiet`, bars show
        how far passes over the tokens are. For `memory` and `folder` see `batches`.
        """
        registry = registry or get_registry()
        info = crosscoder.info
        recipe = dict(info.recipe) if info else {}
        chosen = StudyRecipe.of(crosscoder, models, tokens)
        chosen.check(trusted=trust_recipe or (info is not None and info.own), registry=registry)
        if say is not None:
            for line in chosen.lines():
                say(line)
        with built_together():
            adapters = {
                key: structure(choice, ModelChoice, registry=registry).build(registry=registry)
                if isinstance(choice, Mapping | ModelChoice)
                else choice
                for key, choice in chosen.models.items()
            }
        source = chosen.tokens
        if isinstance(source, Mapping | TokenSourceChoice):
            source = structure(source, TokenSourceChoice, registry=registry).build(registry=registry)
        activations = structure(recipe.get("activations", {}), ActivationConfig, registry=registry)
        adapters = {key: adapter.to(crosscoder.device) for key, adapter in adapters.items()}
        return cls(
            crosscoder,
            adapters,
            source,
            activations=activations,
            num_tokens=num_tokens,
            seed=seed,
            reading=reading_adapter(adapters, recipe.get("tokenizer", "")),
            split=split,
            memory=memory,
            folder=folder,
            quiet=quiet,
            registry=registry,
        )

    def __repr__(self) -> str:
        return (
            f"Study({self.crosscoder.num_latents} latents over {', '.join(self.crosscoder.layout.names)}; "
            f"{self.num_tokens} {self.split.replace('_', '-')} tokens)"
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
            self._pack = choose_pack(
                self.source,
                self.adapters,
                self.reading,
                self.crosscoder.layout.points_by_model,
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

    def with_crosscoder(self, crosscoder: Crosscoder, adapters: Mapping[str, ModelAdapter] | None = None) -> Study:
        """A study of another crosscoder over the same text, and the same models unless `adapters` are given."""
        return Study(
            crosscoder,
            adapters or self.adapters,
            self.source,
            activations=self.activations,
            num_tokens=self.num_tokens,
            seed=self.seed,
            reading=self.reading,
        )

    # -- look ---------------------------------------------------------------------------------------------------

    def latents(self, given: Input, *, top: int = 8) -> TokenLatents:
        """Latents of a text, a conversation (`Chat`, or messages as mappings), token ids, or a list of those.

        Shows itself as coloured text in notebooks; `to_pandas` gives the `top` strongest latents of each token.
        """
        return token_latents(self.batch(given), self.reading, top=top)

    def examples(self, latents: Sequence[int], *, n: int = 20) -> Examples:
        """Where each of these latents is most active among the study's tokens: `n` contexts of different sequences."""
        seen = activity(self, known_latents(latents, self.crosscoder.num_latents), per_latent=n)
        density = seen.firings_F / max(1, seen.num_tokens)
        entries = [
            Example(
                heading=f"latent {j}",
                note="; ".join(
                    filter(None, [self.explanations.get(j), f"active on {float(density[j]):.3%} of tokens"])
                ),
                contexts=seen.contexts[j],
            )
            for j in latents
        ]
        return Examples(title="Strongest examples", entries=entries, note=f"Of {seen.num_tokens} tokens of the study.")

    def read_explanations(self, path: str | Path) -> None:
        """Take explanations of latents from a JSON file that the analysis `autointerp` wrote, for this study alone."""
        found = read_explanations(Path(path), self.crosscoder.num_latents, AnalysisError)
        self.explanations.update({j: entry["explanation"] for j, entry in found.items()})

    def explain(self, found: Mapping[int, str | Mapping[str, Any]]) -> Path | None:
        """Say what latents respond to: texts, or tables with an `explanation` and whatever else is known, by latent.

        They are kept beside the crosscoder from then on, with those that are there already: in memory, in every folder
        that it is saved to and, where it was loaded from a folder of this machine, in `explanations.json` there, whose
        path is returned.
        """
        entries, path = keep_explanations(self.crosscoder, found)
        self.explanations.update(entries)
        return path

    def write_latents(self, folder: str | Path, *, splits: int = 5) -> Path:
        """Write all latents of the study's tokens into a new folder, in the layout of delphi's cache."""
        return write_latents(self, Path(folder), splits=splits)

    def find(self, phrase: Input, *, n: int = 20) -> Table:
        """Latents whose activation the phrase explains, against the study's tokens as baseline.

        Columns `latent`, `surprise_bits` (−log₂ of the share of the study's tokens on which it is as active as at its
        peak on the phrase), `peak`, `score`, `lift` (its mean on the phrase over its mean on the study), `firings`,
        `token` (of the peak).
        """
        return find(self.latents(phrase), self.batches(), self.census(), count=n)

    def logit_effects(self, latents: int | Sequence[int], *, n: int = 10) -> Table:
        """The `n` tokens that latents promote and suppress most by their direct path to the logits, by written site.

        Columns `latent`, `site`, `kind` (promoted, suppressed), `rank`, `token`, `id`, `effect`.
        """
        chosen = known_latents(latents, self.crosscoder.num_latents)
        return logit_effects(self.crosscoder, self.adapters, chosen, count=n)

    def density(self) -> Table:
        """How often and how strongly each latent is active on the study's tokens, densest first.

        Columns `latent`, `density`, `firings`, `mean_active`, `max`.
        """
        return self.census().table()

    def silent(self) -> list[int]:
        """Latents that are active on none of the study's tokens.

        Training calls *dead* what was not selected for a whole window of the run (`training.dead_after_tokens`); a
        latent that is silent here need not be.
        """
        return self.census().silent

    # -- act ----------------------------------------------------------------------------------------------------

    def steer(
        self,
        changes: Mapping[int, Change],
        *,
        model: str | None = None,
        sites: Sequence[str] | None = None,
        keep_error: bool = True,
    ) -> Steered:
        """A model with latents changed, to `generate` from or take `logits` of.

        `changes` by latent: a number is added to its value, `"ablate"`, `("scale", a)`, `("clamp", a)`; see
        `Edit.latents`. Edited are the written sites named, or all of `model`, which is the last site's if nothing is
        said.
        """
        key, chosen = sites_of(self, model, sites)
        parsed(changes, self.crosscoder.num_latents)
        return Steered(self, dict(changes), key, chosen, keep_error)

    def ablate(
        self,
        latents: Sequence[int],
        given: Input | None = None,
        *,
        model: str | None = None,
        sites: Sequence[str] | None = None,
    ) -> Effect:
        """KL and loss at each token where the latents are 0, on a text or the study's tokens."""
        steered = self.steer(dict.fromkeys(latents, "ablate"), model=model, sites=sites)
        what = f"{len(latents)} latents" if len(latents) > 4 else f"latent {', '.join(map(str, latents))}"
        return change_effect(self, steered, given, f"without {what} in {steered.model}")

    def patch(
        self,
        source: str,
        target: str,
        latents: Sequence[int] | None = None,
        given: Input | None = None,
        *,
        upper: str | None = None,
        with_error: bool = False,
    ) -> Effect:
        """How much of one model's behaviour its share of some latents carries (Minder et al. 2025).

        At the points that both write, x^target + Σ_j f_j (d_j^source − d_j^target) over `latents` (None: all) takes
        the place of the activations, and the layers above of `upper` (`source` if not said) go on. The effect is KL
        from the source's own predictions; `recovered` is the share of it that the latents take away. With all latents
        and `with_error`, which adds the rest of the difference, source's layers give the source itself.
        """
        if latents is not None:
            known_latents(latents, self.crosscoder.num_latents)
        return patch_effect(Patching.of(self, source, target, upper), Arm(latents, with_error), given)

    def amplify(
        self,
        latents: Sequence[int] | None = None,
        *,
        alpha: float,
        before: str | None = None,
        after: str | None = None,
    ) -> Amplified:
        """The model after fine-tuning with α times more of what some latents (None: all) do otherwise in it.

        At the points that both models write, x + α Σ_j f_j (d_j^after − d_j^before) takes the place of the activations
        x, while it answers (`generate`) or reads a text (`logits`). `before` and `after` are the models of the first
        and the last site if nothing is said.
        """
        if latents is not None:
            known_latents(latents, self.crosscoder.num_latents)
        sites = self.crosscoder.sites
        return Amplified(Patching.of(self, after or sites[-1].model, before or sites[0].model), alpha, latents)

    # -- measure ------------------------------------------------------------------------------------------------

    def evaluate(self, metrics: Sequence[str | Mapping[str, Any]] | None = None) -> Metrics:
        """Reconstruction, L0 and silent latents on the study's tokens, and what each model loses where the
        reconstruction takes the place of its activations: cross-entropy and KL, clean, spliced, zero- and
        mean-ablated.

        `metrics` are further ones that plugins offer, by name or by `{"name": ..., **options}`; those of the
        crosscoder's recipe if nothing is said.
        """
        crosscoder = self.crosscoder
        further = chosen_metrics(crosscoder, metrics, self.registry)
        columns = crosscoder.layout.columns(crosscoder.written.names)
        total_X = torch.zeros(crosscoder.written.width, **accumulator(crosscoder.device))

        def rows() -> Iterator[Tensor]:
            for batch in self.batches():
                x_BX = batch.x_BX
                total_X.add_(precise(x_BX[:, columns]).sum(dim=0))
                yield x_BX

        found = evaluate(crosscoder, rows(), metrics=further)
        mean_X = (total_X / found.num_tokens).float().to(crosscoder.device)
        return attrs.evolve(found, spliced=spliced_losses(crosscoder, self.adapters, self.batches(), mean_X))

    # -- passes -------------------------------------------------------------------------------------------------

    def batch(self, given: Input) -> StudyBatch:
        """Activations of a text, conversation, token ids or a list of those, one row each.

        Tokens that training masks leave out do not count, outliers apart, which are known only in a study's own tokens.
        """
        tokens = token_rows(given, self.adapters, self.reading)
        harvester = self._harvester()
        tokens = tokens.to(self.crosscoder.device)
        x_BTX = harvester(tokens)
        keep_BT = keep_mask(self.activations.masks, tokens, harvester.norms(x_BTX), None)
        return StudyBatch(0, tokens, x_BTX, keep_BT, self.crosscoder)

    def census(self) -> Census:
        """How often and how strongly each latent is active on the study's tokens; counted once."""
        key = "census", self.activations, self.split, self.num_tokens
        version = version_of(self.crosscoder)
        if self._shared.get(key, (None,))[0] != version:
            self._shared[key] = version, census(self.batches(), self.crosscoder.num_latents)
        found: Census = self._shared[key][1]
        return found

    # -- normalise ----------------------------------------------------------------------------------------------

    def estimate_normalisation(self, num_tokens: int = 16_384) -> None:
        """Give the sites whose scale no file says √D / mean‖x‖ of these tokens; others stay as they are."""
        estimate_scales(self.with_tokens(num_tokens))

    def batches(self) -> Iterator[StudyBatch]:
        """Yield activations of about `num_tokens` tokens, or fewer if the token source ends sooner.

        The first pass keeps tokens, and activations and latents up to `memory` bytes; what does not fit is made anew by
        later passes, or read from files in `folder` if there is one.
        """
        rows, length = -(-self.num_tokens // self.activations.context_length), self.activations.context_length
        yield from watched(
            self._passes().batches(rows),
            self.doing,
            total=rows * length,
            quiet=self.quiet,
            unit="tok",
            size=lambda batch: batch.keep_BT.numel(),
        )

    def watch(self, items: Collection[T], what: str) -> Iterator[T]:
        """The same items, with a progress bar unless the study is `quiet`: for what an analysis does besides passes."""
        return watched(items, what, total=len(items), quiet=self.quiet)

    def _harvester(self) -> Harvester:
        rows, device = self.activations.rows_per_forward, self.crosscoder.device
        return Harvester(self.adapters, self.crosscoder.layout, rows_per_forward=rows, device=device)

    def _passes(self) -> Passes:
        config = self.activations
        key = config, self.split
        if key not in self._shared:
            reader = make_reader(
                self.source,
                self.adapters,
                self.reading,
                context_length=config.context_length,
                pack=self.pack,
                split=self.split,
                held_out_share=config.held_out_share,
                repeat=False,
                roles=config.masks.roles,
            )
            self._shared[key] = Passes(
                self.crosscoder, reader, self._harvester(), config, memory=self.memory, folder=self.folder
            )
        passes: Passes = self._shared[key]
        return passes
