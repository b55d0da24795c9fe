"""Architectures, losses, analyses and token sources that come with crosscoders."""

from __future__ import annotations

from collections.abc import Iterator

from crosscoders import (
    AnalysisSpec,
    ArchitectureSpec,
    CheckpointFormatSpec,
    LossSpec,
    LossTermSpec,
    ReleaseSpec,
    TokenSourceSpec,
    hookimpl,
)

_HERE = "crosscoders_plugins"


@hookimpl
def crosscoders_architectures() -> Iterator[ArchitectureSpec]:
    """Offer the architectures of this package."""
    for name, stem, summary in (
        ("acausal", "Acausal", "Every latent reads and writes every site."),
        ("sae", "Sae", "A sparse autoencoder: one site."),
        ("per_layer_saes", "PerLayerSaes", "One sparse autoencoder for each site, as one object."),
        ("transcoder", "Transcoder", "Latents read the first site and write the second."),
        ("pre_post_mlp", "PrePostMlp", "One set of latents over an MLP's input and output."),
        ("local", "Local", "Latents over windows of neighbouring sites."),
        ("weakly_causal", "WeaklyCausal", "Latents of layer l read it and write layers from l on."),
        (
            "strictly_causal",
            "StrictlyCausal",
            "Cross-layer transcoder: read the residual at l, write outputs ≥ l.",
        ),
        ("dedicated", "Dedicated", "Some latents belong to one model alone (DFC)."),
        ("designated_shared", "DesignatedShared", "Some latents have one decoder row for all models (DSF)."),
        ("factored", "Factored", "Each latent's rows over the sites have low rank."),
        ("matryoshka", "Matryoshka", "Nested levels over another architecture."),
        ("explicit", "Explicit", "The wiring table itself, spelled out in the config."),
    ):
        module = f"{_HERE}.architectures.{name}"
        yield ArchitectureSpec(name=name, config=f"{module}:{stem}Config", build=f"{module}:{name}", summary=summary)


@hookimpl
def crosscoders_losses() -> Iterator[LossSpec]:
    """Offer the losses of this package."""
    for name, stem, summary in (
        ("l1", "L1", "L1 on activations times decoder norms."),
        ("dsf", "DSF", "L1 with a smaller weight on designated shared latents."),
        ("jumprelu", "JumpRelu", "Learned thresholds, with a tanh or a quadratic L0 penalty."),
        ("topk", "TopK", "Keep the k largest activations of each token."),
        ("batchtopk", "BatchTopK", "Keep the k largest activations per token, over the whole batch."),
        ("matryoshka_batchtopk", "MatryoshkaBatchTopK", "BatchTopK in which each nested level reconstructs by itself."),
        ("dfc", "DFC", "BatchTopK with a penalty on shared and exclusive latents."),
        ("delta", "Delta", "BatchTopK with separate k for shared and delta latents, and a difference term."),
    ):
        module = f"{_HERE}.losses.{name}"
        yield LossSpec(name=name, config=f"{module}:{stem}Config", build=f"{module}:{stem}", summary=summary)


@hookimpl
def crosscoders_loss_terms() -> Iterator[LossTermSpec]:
    """Offer the loss terms of this package."""
    for name, module, stem, summary in (
        ("auxk", "auxk", "AuxK", "Dead latents predict the residual of the others."),
        ("frequency", "frequency", "Frequency", "A penalty on latents that fire too often."),
        ("group_l1", "group_l1", "GroupL1", "An L1 penalty with a weight for each latent group."),
    ):
        target = f"{_HERE}.losses.{module}:{stem}"
        yield LossTermSpec(name=name, config=f"{target}Config", build=target, summary=summary)


@hookimpl
def crosscoders_analyses() -> Iterator[AnalysisSpec]:
    """Offer the analyses of this package."""
    for name, stem, summary in (
        ("decoder_norms", "DecoderNorms", "Which latents belong to which site, with examples of the most specific."),
        ("latent_scaling", "LatentScaling", "Whether latents that look site-specific really are: beta and nu of each."),
        ("fidelity", "Fidelity", "What each model loses when the reconstruction takes the place of its activations."),
        ("functional_coherence", "FunctionalCoherence", "How many sites each latent really reads."),
        ("behaviours", "Behaviours", "Which latents carry what regular expressions describe, and what ablation does."),
        ("diff", "Diff", "What fine-tuning added, removed and changed, one line for each latent, and how sure."),
        ("layers", "Layers", "Where along the layers each latent lives, how far it reaches, and whether it turns."),
        ("snapshots", "Snapshots", "When in training each latent comes up and settles."),
        ("causal_kl", "CausalKL", "How much of the behaviour that differs between two models sets of latents carry."),
        (
            "latent_amplification",
            "LatentAmplification",
            "Bring out rare behaviour through latents, and name them.",
        ),
        ("universality", "Universality", "Whether other crosscoders over the same sites find the same latents."),
        ("representations", "Representations", "How alike sites are as wholes: SVCCA, CKA, Procrustes, stitching."),
        ("autointerp", "Autointerp", "Explanations by a language model of your own, and how well they hold."),
        ("amplification", "Amplification", "Sample from the difference of two models to bring out rare behaviour."),
    ):
        module = f"{_HERE}.analyses.{name}"
        yield AnalysisSpec(name=name, config=f"{module}:{stem}Config", build=f"{module}:{stem}", summary=summary)


@hookimpl
def crosscoders_token_sources() -> Iterator[TokenSourceSpec]:
    """Offer the token sources of this package."""
    for name, stem, summary in (
        ("python_library", "PythonLibrary", "Docstrings, help topics and chats from the running Python (default)."),
        ("text_files", "TextFiles", "Plain text files or folders of them."),
        ("chat_files", "ChatFiles", "Conversations in JSON Lines files, laid out by the chat template."),
        ("hf_dataset", "HfDataset", "A Hugging Face dataset, streamed: a text or a conversation column."),
        ("mixture", "Mixture", "Several sources, mixed by weight."),
        ("samples", "Samples", "Numbered samples of a data set, for models that read no text."),
    ):
        module = f"{_HERE}.token_sources.{name}"
        yield TokenSourceSpec(name=name, config=f"{module}:{stem}Config", build=f"{module}:{stem}", summary=summary)


@hookimpl
def crosscoders_checkpoint_formats() -> Iterator[CheckpointFormatSpec]:
    """Offer the checkpoint formats of this package."""
    for name, module, stem, summary in (
        ("ckkissane", "ckkissane", "Ckkissane", "Kissane et al.'s crosscoder and its copies (read, written)."),
        (
            "crosscoder_learning",
            "crosscoder_learning",
            "CrosscoderLearning",
            "science-of-finetuning's crosscoders, all eras (read, written).",
        ),
        ("dictionary_learning", "dictionary_learning", "DictionaryLearning", "saprmarks' seven classes (read)."),
        ("saelens", "saelens", "Saelens", "SAELens autoencoders and transcoders (read, written)."),
        ("sparsify", "sparsify", "Sparsify", "EleutherAI's TopK coders, one or one for each layer (read)."),
        ("clt_training", "sparsify", "CltTraining", "EleutherAI's cross-layer transcoders (read)."),
        ("circuit_tracer_clt", "circuit_tracer", "CircuitTracerClt", "Cross-layer transcoders (read, written)."),
        ("circuit_tracer_plt", "circuit_tracer", "CircuitTracerPlt", "Per-layer transcoders (read, written)."),
        ("crosslayer_coding", "crosslayer_coding", "CrosslayerCoding", "curt-tigges' CLTs, tied or not (read)."),
        (
            "crosslayer_transcoder",
            "crosslayer_transcoder",
            "CrosslayerTranscoder",
            "Goreg12345's CLTs and per-layer transcoders (read).",
        ),
        ("clt_forge", "clt_forge", "CltForge", "CLT-Forge's cross-layer transcoders (read)."),
        ("crosscode", "crosscode", "Crosscode", "crosscode's acausal crosscoders and skip transcoders (read)."),
        ("openmoss", "openmoss", "Openmoss", "OpenMOSS autoencoders, CLTs and relu crosscoders (read)."),
        ("gemma_scope_1", "gemma_scope", "GemmaScope1", "Gemma Scope 1 (read)."),
        ("gemma_scope_2", "gemma_scope", "GemmaScope2", "Gemma Scope 2, its crosscoders and CLTs too (read)."),
    ):
        target = f"{_HERE}.formats.{module}:{stem}"
        yield CheckpointFormatSpec(name=name, config="crosscoders:NoOptions", build=target, summary=summary)


@hookimpl
def crosscoders_pretrained() -> Iterator[ReleaseSpec]:
    """Offer the public releases that this package knows."""
    from .formats.releases import releases

    yield from releases()
