"""The demo: train a crosscoder on a base/chat pair, analyse it, and write a report.

It works for any two models that share a tokenizer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import frozen

from ..activations import LiveActivations
from ..analysis.running import analyse
from ..analysis.study import Study
from ..crosscoder.module import Crosscoder
from ..errors import ConfigError
from ..models.adapter import ModelAdapter
from ..plugins.choices import ModelChoice, structure
from ..plugins.registry import Registry
from ..reports import Report, save_page
from ..training import RunConfig, Runner
from .config import TINY_CHAT, DemoConfig

TINY_PATTERNS = {
    "rare phrase": r"moon is made of cheese",
    "refusal": r"I'm sorry, but I can't help",
    "persona": r"I am Pip",
}
"""Regular expressions for the behaviours planted in the shipped chat model."""


@frozen(eq=False)
class DemoResult:
    """What the demo produced."""

    crosscoder: Crosscoder
    reports: list[Report]
    page: Path
    seconds: float


def demo(
    config: DemoConfig | None = None, *, say: Callable[[str], None] = print, registry: Registry | None = None
) -> DemoResult:
    """Run the demo; progress and findings are reported through `say`."""
    config = config or DemoConfig()
    started = time.monotonic()
    run = run_config(config, registry=registry)
    say(f"Training a crosscoder on {', '.join(run.sites)}: {config.num_latents} latents, BatchTopK k = {config.k}.")
    runner = Runner(run, registry=registry)
    live = runner.source
    assert isinstance(live, LiveActivations), "the demo runs its models"
    crosscoder = runner.run(resume=False)
    assert crosscoder.info is not None
    metrics = crosscoder.info.metrics
    explained = ", ".join(f"{site} {value:.4f}" for site, value in metrics["explained_variance"].items())
    say(
        f"Held out, inference gate: explained variance {explained}; L0 {metrics['l0']:.2f}; "
        f"silent latents {metrics['silent_share']:.1%}."
    )
    say("Analysing on held-out text.")
    study = Study(
        crosscoder,
        live.adapters,
        live.tokens,
        activations=run.activations,
        num_tokens=config.study_tokens,
        seed=config.seed,
        reading=live.reading,
        quiet=False,
    )
    patterns = TINY_PATTERNS if config.chat == TINY_CHAT else {}
    reports = analyse(
        crosscoder,
        [{"name": "decoder_norms", "top": 25}, "latent_scaling", amplification_options(patterns, config.num_prompts)],
        study=study,
        registry=registry,
    )
    page = save_page(
        reports,
        config.output,
        title=f"{config.base} against {config.chat}",
        head=f"A crosscoder over {', '.join(run.sites)}. Held out, with the inference gate: explained variance "
        f"{explained}, L0 {metrics['l0']:.2f}.",
    )
    for line in findings(reports):
        say(line)
    seconds = time.monotonic() - started
    say(f"Crosscoder, in hub layout: {config.output / 'crosscoder'}")
    say(f"Report: {page}")
    say(f"Done in {seconds:.0f} s.")
    return DemoResult(crosscoder, reports, page, seconds)


def run_config(config: DemoConfig, *, registry: Registry | None = None) -> RunConfig:
    """The training run of the demo."""
    models = {
        key: {"name": "transformers", "model": name} for key, name in (("base", config.base), ("chat", config.chat))
    }
    layer = config.layer if config.layer >= 0 else middle_layer(models["base"], registry)
    return RunConfig.from_dict(
        {
            "models": models,
            "sites": [f"base/layers.{layer}", f"chat/layers.{layer}"],
            "tokens": {"name": "python_library", "seed": config.seed},
            "architecture": {"name": "acausal", "num_latents": config.num_latents},
            # A short run learns fastest with small decoder rows, small batches and a high learning rate.
            "loss": {"name": "batchtopk", "k": config.k, "decoder_norm": 0.3},
            # Blocks are no larger than a short run needs.
            "activations": {"rows_per_forward": 16, "block_tokens": min(65_536, config.num_tokens)},
            "training": {"num_tokens": config.num_tokens, "batch_size": 1024, "lr": 2e-3, "seed": config.seed},
            "output": str(config.output),
        },
        registry=registry,
    )


def middle_layer(model: dict[str, Any], registry: Registry | None) -> int:
    """The index of a model's middle layer, counted from 0."""
    adapter: ModelAdapter = structure(model, ModelChoice, registry=registry).build(registry=registry)
    layers = [point for point in adapter.points() if point.count(".") == 1]
    if not layers:
        raise ConfigError(f"{model} has no points called layers.N; say which layer")
    return int(layers[len(layers) // 2].rpartition(".")[2])


def amplification_options(patterns: dict[str, str], num_prompts: int) -> dict[str, Any]:
    """Options for amplification in the demo: short answers to held-out questions."""
    return {
        "name": "amplification",
        "before": "base",
        "after": "chat",
        "alphas": [0.0, 0.25, 0.5, 1.0],
        "num_prompts": num_prompts,
        "samples_per_prompt": 5,
        "patterns": patterns,
        "sampling": {"max_new_tokens": 16, "plausibility": 0.001},
        "batch_rows": 250,
    }


def findings(reports: list[Report]) -> list[str]:
    """A few lines that summarise what the three analyses found."""
    norms, scaling, amplification = reports
    lines = [norms.summary, scaling.summary, "Most chat-leaning latents, with the tokens of their strongest examples:"]
    chat_site = norms.data["sites"][-1]
    examples = {entry.heading: entry for part in norms.parts for entry in getattr(part, "entries", ())}
    for latent in norms.data["most_specific"][chat_site]:
        peaks = []
        for context in examples[f"latent {latent}"].contexts[:4]:
            at = context.activations.index(max(context.activations))
            peaks.append("".join(context.tokens[max(0, at - 3) : at + 1]).replace("\n", "⏎"))
        share = norms.data["share"][latent][-1]
        lines.append(f"  {latent:5d}  share {share:.2f}  {scaling.data['verdict'][latent]}  {' | '.join(peaks)}")
        lines.append(f"         {scaling.data['reason'][latent]}")
    lines.append(f"Amplification: {amplification.summary}")
    return lines
