"""What this distribution offers to crosscoders. Nothing heavy is imported here: the records point to the code."""

from crosscoders import (
    AnalysisSpec,
    ArchitectureSpec,
    CommandSpec,
    GateSpec,
    LossSpec,
    MetricSpec,
    ModelAdapterSpec,
    ObserverSpec,
    TokenSourceSpec,
    hookimpl,
)


@hookimpl
def crosscoders_architectures():
    yield ArchitectureSpec(
        name="paired",
        config="crosscoders_example.paired:PairedConfig",
        build="crosscoders_example.paired:paired",
        summary="Shared latents over all sites and extra ones for the last site alone.",
    )


@hookimpl
def crosscoders_losses():
    yield LossSpec(
        name="log_penalty",
        config="crosscoders_example.log_penalty:LogPenaltyConfig",
        build="crosscoders_example.log_penalty:LogPenalty",
        summary="A penalty on the logarithm of the activations.",
    )
    yield LossSpec(
        name="shared_budget",
        config="crosscoders_example.shared_budget:SharedBudgetConfig",
        build="crosscoders_example.shared_budget:SharedBudget",
        summary="BatchTopK in which each latent group has places of its own.",
    )


@hookimpl
def crosscoders_model_adapters():
    yield ModelAdapterSpec(
        name="random_walk",
        config="crosscoders_example.random_walk:RandomWalkConfig",
        build="crosscoders_example.random_walk:RandomWalk",
        summary="A toy model whose activations walk randomly along the text.",
    )
    yield ModelAdapterSpec(
        name="waves",
        config="crosscoders_example.waves:WavesConfig",
        build="crosscoders_example.waves:Waves",
        summary="Sine waves by number, for a model that reads no text.",
    )
    yield ModelAdapterSpec(
        name="recorded",
        config="crosscoders_example.recorded:RecordedConfig",
        build="crosscoders_example.recorded:Recorded",
        summary="Hidden states that an engine for inference has written to files.",
    )


@hookimpl
def crosscoders_token_sources():
    yield TokenSourceSpec(
        name="recorded_tokens",
        config="crosscoders_example.recorded:RecordedTokensConfig",
        build="crosscoders_example.recorded:RecordedTokens",
        summary="The tokens of those files.",
    )


@hookimpl
def crosscoders_analyses():
    yield AnalysisSpec(
        name="alive",
        config="crosscoders:NoOptions",
        build="crosscoders_example.alive:Alive",
        summary="How many latents fire at least once.",
    )


@hookimpl
def crosscoders_gates():
    yield GateSpec(
        name="margin",
        config="crosscoders_example.margin:MarginConfig",
        build="crosscoders_example.margin:Margin",
        summary="On where the score exceeds a share of the token's largest.",
    )


@hookimpl
def crosscoders_observers():
    yield ObserverSpec(
        name="plateau",
        config="crosscoders_example.plateau:PlateauConfig",
        build="crosscoders_example.plateau:Plateau",
        summary="Ends a run that no longer improves.",
    )


@hookimpl
def crosscoders_metrics():
    yield MetricSpec(
        name="evenness",
        config="crosscoders:NoOptions",
        build="crosscoders_example.evenness:Evenness",
        summary="Over how many latents the activity is spread.",
    )


@hookimpl
def crosscoders_commands():
    yield CommandSpec(
        name="site-norms",
        build="crosscoders_example.command:site_norms",
        summary="Mean norms at the sites of a crosscoder.",
    )
