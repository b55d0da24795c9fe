"""Architectures, losses, analyses and token sources that come with crosscoders."""

from __future__ import annotations

from collections.abc import Iterator

from crosscoders import AnalysisSpec, ArchitectureSpec, LossSpec, TokenSourceSpec, hookimpl

_HERE = "crosscoders_plugins"


@hookimpl
def crosscoders_architectures() -> Iterator[ArchitectureSpec]:
    """Offer the architectures of this package."""
    for name, config, summary in (
        ("acausal", "AcausalConfig", "Every latent reads and writes every site."),
        ("sae", "SaeConfig", "A sparse autoencoder: one site."),
        ("transcoder", "TranscoderConfig", "Latents read the first site and write the second."),
    ):
        module = f"{_HERE}.architectures.{name}"
        yield ArchitectureSpec(name=name, config=f"{module}:{config}", build=f"{module}:{name}", summary=summary)


@hookimpl
def crosscoders_losses() -> Iterator[LossSpec]:
    """Offer the losses of this package."""
    for name, stem, summary in (
        ("l1", "L1", "L1 on activations times decoder norms."),
        ("batchtopk", "BatchTopK", "Keep the k largest activations per token, over the whole batch."),
    ):
        module = f"{_HERE}.losses.{name}"
        yield LossSpec(name=name, config=f"{module}:{stem}Config", build=f"{module}:{stem}", summary=summary)


@hookimpl
def crosscoders_analyses() -> Iterator[AnalysisSpec]:
    """Offer the analyses of this package."""
    for name, stem, summary in (
        ("decoder_norms", "DecoderNorms", "Which latents belong to which site, with examples of the most specific."),
        ("latent_scaling", "LatentScaling", "Whether site-specific latents are so in truth: beta and nu of each."),
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
    ):
        module = f"{_HERE}.token_sources.{name}"
        yield TokenSourceSpec(name=name, config=f"{module}:{stem}Config", build=f"{module}:{stem}", summary=summary)
