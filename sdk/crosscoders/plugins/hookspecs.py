"""The hooks that a plugin may implement. A hook takes no arguments and yields frozen records.

Installing a plugin only *offers* its components; a component acts only if a config names it. An entry module should
import nothing heavier than `crosscoders`, because every listing of plugins imports it.
"""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from .specs import (
    AnalysisSpec,
    ArchitectureSpec,
    CheckpointFormatSpec,
    CommandSpec,
    GateSpec,
    LossSpec,
    LossTermSpec,
    MetricSpec,
    ModelAdapterSpec,
    ObserverSpec,
    ReleaseSpec,
    TokenSourceSpec,
)

PROJECT = "crosscoders"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class CrosscodersSpecs:
    """All declaration hooks; see each for a complete example."""

    @hookspec
    def crosscoders_architectures(self) -> Iterable[ArchitectureSpec]:
        """Offer architectures: tables that say which latents read and write which sites.

        `build(options, sites)` returns a `Wiring` or, for special parameterisations, a subclass of `Crosscoder`:

        >>> from attrs import frozen
        >>> from crosscoders import ArchitectureSpec, LatentGroup, Wiring, hookimpl
        >>> @frozen(kw_only=True)
        ... class PairwiseConfig:
        ...     num_latents: int = 64
        >>> def pairwise(options, sites):
        ...     names = tuple(site.name for site in sites)
        ...     group = LatentGroup("all", options.num_latents, reads=names, writes=names)
        ...     return Wiring(sites=sites, groups=(group,))
        >>> @hookimpl
        ... def crosscoders_architectures():
        ...     yield ArchitectureSpec(
        ...         name="pairwise", config="my_plugin.pairwise:PairwiseConfig", build="my_plugin.pairwise:pairwise"
        ...     )
        """
        return ()

    @hookspec
    def crosscoders_losses(self) -> Iterable[LossSpec]:
        """Offer losses: how latents are selected in training, the named terms, and the gate for inference.

        `build(options)` returns a `Loss`; a plain L1 on the latents reads:

        >>> from attrs import frozen
        >>> from crosscoders import Loss, LossOutput, LossSpec, ReluGate, hookimpl
        >>> @frozen(kw_only=True)
        ... class PlainL1Config:
        ...     weight: float = 0.1
        >>> class PlainL1(Loss):
        ...     decoder_norm = 0.1
        ...
        ...     def __init__(self, options):
        ...         super().__init__()
        ...         self.weight = options.weight
        ...
        ...     def forward(self, crosscoder, x_BX, step):
        ...         f_BF = crosscoder.pre_activations(x_BX).relu()
        ...         residual = crosscoder.target(x_BX) - crosscoder.decode_normalised(f_BF, x_BX)
        ...         terms = {
        ...             "reconstruction": step.mean(residual.square().sum()),
        ...             "sparsity": self.weight * step.mean(f_BF.sum()),
        ...         }
        ...         return LossOutput.from_dense(terms, f_BF, residual)
        ...
        ...     def gate(self):
        ...         return ReluGate()
        >>> @hookimpl
        ... def crosscoders_losses():
        ...     yield LossSpec(name="plain_l1", config="my_plugin.plain:PlainL1Config", build="my_plugin.plain:PlainL1")
        """
        return ()

    @hookspec
    def crosscoders_loss_terms(self) -> Iterable[LossTermSpec]:
        """Offer terms that a config adds to a loss: `terms = [{name = "quiet", weight = 0.01}]`.

        `build(options)` returns a `LossTerm`, which sees the forward pass that the loss has already run:

        >>> from attrs import frozen
        >>> from crosscoders import LossTerm, LossTermSpec, hookimpl
        >>> @frozen(kw_only=True)
        ... class QuietConfig:
        ...     weight: float = 0.01
        >>> class Quiet(LossTerm):
        ...     def __init__(self, options):
        ...         super().__init__()
        ...         self.weight = options.weight
        ...
        ...     def forward(self, forward_pass, step):
        ...         return self.weight * step.mean(forward_pass.active.total_F().sum())
        >>> @hookimpl
        ... def crosscoders_loss_terms():
        ...     yield LossTermSpec(name="quiet", config="my_plugin.quiet:QuietConfig", build="my_plugin.quiet:Quiet")
        """
        return ()

    @hookspec
    def crosscoders_model_adapters(self) -> Iterable[ModelAdapterSpec]:
        """Offer model adapters, which give activations, logits and edits of one kind of model.

        `build(options)` returns an object with the methods of the `ModelAdapter` protocol:

        >>> from crosscoders import ModelAdapterSpec, hookimpl
        >>> @hookimpl
        ... def crosscoders_model_adapters():
        ...     yield ModelAdapterSpec(
        ...         name="mamba", config="my_plugin.mamba:MambaConfig", build="my_plugin.mamba:MambaAdapter"
        ...     )
        """
        return ()

    @hookspec
    def crosscoders_analyses(self) -> Iterable[AnalysisSpec]:
        """Offer analyses, which turn a crosscoder, its models and tokens into a report.

        `build(options)` returns an object whose `run(study)` returns a `Report`:

        >>> from crosscoders import AnalysisSpec, NoOptions, Report, Table, hookimpl
        >>> class Widths:
        ...     def __init__(self, options):
        ...         pass
        ...
        ...     def run(self, study):
        ...         rows = [(site.name, site.width) for site in study.crosscoder.sites]
        ...         return Report(title="Widths", parts=(Table(title="Sites", columns=("site", "width"), rows=rows),))
        >>> @hookimpl
        ... def crosscoders_analyses():
        ...     yield AnalysisSpec(name="widths", config="crosscoders:NoOptions", build="my_plugin.widths:Widths")
        """
        return ()

    @hookspec
    def crosscoders_token_sources(self) -> Iterable[TokenSourceSpec]:
        """Offer token sources: streams of documents.

        `build(options)` returns an object whose `documents(skip=n)` yields the documents from number n on. They must be
        the same every time:

        >>> from crosscoders import Text, TokenSourceSpec, hookimpl
        >>> class Poems:
        ...     def __init__(self, options):
        ...         self.poems = ["Roses are red.", "Violets are blue."]
        ...
        ...     def documents(self, *, skip=0):
        ...         return map(Text, self.poems[skip:])
        >>> @hookimpl
        ... def crosscoders_token_sources():
        ...     yield TokenSourceSpec(name="poems", config="crosscoders:NoOptions", build="my_plugin.poems:Poems")
        """
        return ()

    @hookspec
    def crosscoders_checkpoint_formats(self) -> Iterable[CheckpointFormatSpec]:
        """Offer readers and writers of other libraries' checkpoints.

        `build(options)` returns a `CheckpointFormat`.

        >>> from crosscoders import CheckpointFormatSpec, hookimpl
        >>> @hookimpl
        ... def crosscoders_checkpoint_formats():
        ...     yield CheckpointFormatSpec(
        ...         name="their_format", config="crosscoders:NoOptions", build="my_plugin.theirs:TheirFormat"
        ...     )
        """
        return ()

    @hookspec
    def crosscoders_pretrained(self) -> Iterable[ReleaseSpec]:
        """Offer known public releases: data that `pretrained()` lists and `from_pretrained` takes by name.

        >>> from crosscoders import ReleaseSpec, hookimpl
        >>> @hookimpl
        ... def crosscoders_pretrained():
        ...     yield ReleaseSpec(
        ...         name="my-diff-l13",
        ...         repository="me/my-crosscoders",
        ...         subfolder="layer-13",
        ...         format="crosscoder_learning",
        ...         family="crosscoder",
        ...         models=("google/gemma-2-2b", "google/gemma-2-2b-it"),
        ...         sites={"0": "base/layers.13", "1": "chat/layers.13"},
        ...     )
        """
        return ()

    @hookspec
    def crosscoders_gates(self) -> Iterable[GateSpec]:
        """Offer gates: which latents are on at inference, where none of the host's own four will do.

        `build(options)` returns a `Gate` that is called as its record is. Its `options()` are what the config class
        takes; its buffers are saved with the weights.

        >>> from attrs import frozen
        >>> from crosscoders import Gate, GateSpec, hookimpl
        >>> @frozen(kw_only=True)
        ... class MarginGateConfig:
        ...     margin: float = 0.0
        >>> class MarginGate(Gate):
        ...     name = "margin"
        ...
        ...     def __init__(self, options):
        ...         super().__init__()
        ...         self.margin = options.margin
        ...
        ...     def keep(self, f_BF, norm_F):
        ...         return f_BF > self.margin
        ...
        ...     def options(self):
        ...         return {"margin": self.margin}
        >>> @hookimpl
        ... def crosscoders_gates():
        ...     yield GateSpec(
        ...         name="margin", config="my_plugin.margin:MarginGateConfig", build="my_plugin.margin:MarginGate"
        ...     )
        """
        return ()

    @hookspec
    def crosscoders_observers(self) -> Iterable[ObserverSpec]:
        """Offer observers of training runs; only those that a run's config lists (`observers`) are called.

        `build(options)` returns an `Observer`; this one ends a run that has become good enough:

        >>> from attrs import frozen
        >>> from crosscoders import Observer, ObserverSpec, hookimpl
        >>> @frozen(kw_only=True)
        ... class EnoughConfig:
        ...     explained_variance: float = 0.95
        >>> class Enough(Observer):
        ...     def __init__(self, options):
        ...         self.options = options
        ...
        ...     def step_end(self, run, report):
        ...         worst = min(report.explained_variance.values())
        ...         run.log({"enough/worst_site": worst})
        ...         if worst > self.options.explained_variance:
        ...             run.stop(f"every site has an explained variance of {worst:.3f}")
        >>> @hookimpl
        ... def crosscoders_observers():
        ...     yield ObserverSpec(
        ...         name="enough", config="my_plugin.enough:EnoughConfig", build="my_plugin.enough:Enough"
        ...     )
        """
        return ()

    @hookspec
    def crosscoders_metrics(self) -> Iterable[MetricSpec]:
        """Offer further metrics of an evaluation; only those that a run's config lists (`metrics`) are computed.

        `build(options)` returns a `Metric`: sums over tokens, and numbers made of them.

        >>> import torch
        >>> from crosscoders import Metric, MetricSpec, hookimpl
        >>> class ActivationSize(Metric):
        ...     def __init__(self, options):
        ...         pass
        ...
        ...     def sums(self, batch):
        ...         return torch.stack([batch.latents.value_N.sum(), torch.tensor(len(batch.latents.value_N))])
        ...
        ...     def values(self, sums_K, crosscoder):
        ...         total, count = sums_K.tolist()
        ...         return {"mean_active": total / count if count else float("nan")}
        >>> @hookimpl
        ... def crosscoders_metrics():
        ...     yield MetricSpec(
        ...         name="activation_size", config="crosscoders:NoOptions", build="my_plugin.sizes:ActivationSize"
        ...     )
        """
        return ()

    @hookspec
    def crosscoders_commands(self) -> Iterable[CommandSpec]:
        """Offer commands: `crosscoders NAME` of the command line, made with click.

        `build` names the command itself. An error of the kind `CrosscodersError` is shown as one line.

        >>> import click
        >>> from crosscoders import CommandSpec, hookimpl
        >>> @click.command()
        ... @click.argument("name")
        ... def count(name):
        ...     "Count the latents of a crosscoder."
        >>> @hookimpl
        ... def crosscoders_commands():
        ...     yield CommandSpec(
        ...         name="count", build="my_plugin.cli:count", summary="Count the latents of a crosscoder."
        ...     )
        """
        return ()
