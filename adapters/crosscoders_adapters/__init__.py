"""Model adapters that come with crosscoders."""

from __future__ import annotations

from collections.abc import Iterator

from crosscoders import ModelAdapterSpec, TokenSourceSpec, hookimpl


@hookimpl
def crosscoders_model_adapters() -> Iterator[ModelAdapterSpec]:
    """Offer the adapters of this package."""
    yield ModelAdapterSpec(
        name="transformers",
        config="crosscoders_adapters.transformers:TransformersConfig",
        build="crosscoders_adapters.transformers:TransformersAdapter",
        summary="Models of the Hugging Face transformers library, by id or folder.",
    )
    yield ModelAdapterSpec(
        name="nnsight",
        config="crosscoders_adapters.nnsight:NnsightConfig",
        build="crosscoders_adapters.nnsight:NnsightAdapter",
        summary="The same models by nnsight: the output of any module is a point, by its path.",
    )
    yield ModelAdapterSpec(
        name="transformer_lens",
        config="crosscoders_adapters.transformer_lens:TransformerLensConfig",
        build="crosscoders_adapters.transformer_lens:TransformerLensAdapter",
        summary="The same models by TransformerLens: its hook names are the points.",
    )
    yield ModelAdapterSpec(
        name="synthetic",
        config="crosscoders_adapters.synthetic:SyntheticConfig",
        build="crosscoders_adapters.synthetic:SyntheticAdapter",
        summary="One model of a planted world whose features are known.",
    )
    yield ModelAdapterSpec(
        name="synthetic_layers",
        config="crosscoders_adapters.synthetic:SyntheticLayersConfig",
        build="crosscoders_adapters.synthetic:SyntheticLayers",
        summary="A planted model whose features live on windows of its layers.",
    )
    yield ModelAdapterSpec(
        name="difference",
        config="crosscoders_adapters.difference:DifferenceConfig",
        build="crosscoders_adapters.difference:Difference",
        summary="The activations of one model minus those of another.",
    )


@hookimpl
def crosscoders_token_sources() -> Iterator[TokenSourceSpec]:
    """Offer the tokens of the planted world."""
    yield TokenSourceSpec(
        name="synthetic",
        config="crosscoders_adapters.synthetic:SyntheticTokensConfig",
        build="crosscoders_adapters.synthetic:SyntheticTokens",
        summary="Endless random token ids for synthetic models.",
    )
