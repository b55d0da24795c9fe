"""The demo: train a crosscoder on a base/chat pair, analyse it, and write a report.

It works for any two models that share a tokenizer.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from ..activations import LiveActivations
from ..analysis.running import analyse
from ..analysis.study import Study
from ..crosscoder.module import Crosscoder
from ..errors import ConfigError
from ..explorer.dashboard import write_dashboard
from ..models.adapter import ModelAdapter
from ..plugins.choices import ModelChoice, structure
from ..plugins.registry import Registry
from ..reports import Report, save_page
from ..training import RunConfig, Runner
from .config import DemoConfig
from .findings import chat_leaning, findings


@frozen(eq=False)
class DemoResult:
    """What the demo produced."""

    crosscoder: Crosscoder
    reports: list[Report]
    page: Path
    dashboard: Path
    """The page of all latents."""
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
    quality = (
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
    reports = analyse(crosscoder, analyses(config), study=study, registry=registry)
    found = findings(config, reports)
    title = f"{config.base} against {config.chat}"
    page = save_page(
        reports,
        config.output,
        title=title,
        head=[*found, f"A crosscoder over {', '.join(run.sites)}. {quality}"],
    )
    dashboard = config.output / "dashboard" / "index.html"
    write_dashboard(study, dashboard.parent, results=reports, title=title)
    for line in [*found, *(chat_leaning(reports) if config.full else []), quality]:
        say(line)
    seconds = time.monotonic() - started
    say(f"Crosscoder, in hub layout: {config.output / 'crosscoder'}")
    say(f"Report, with the latents behind this: {page}")
    say(f"Dashboard of all latents, to search and sort: {dashboard}")
    command = [
        "crosscoders",
        "serve",
        str(config.output / "crosscoder"),
        "--dashboard",
        str(config.output / "dashboard"),
    ]
    say(f"To try texts and steer in a browser: {shlex.join(command)}")
    say(f"Done in {seconds:.0f} s.")
    return DemoResult(crosscoder, reports, page, dashboard, seconds)


def analyses(config: DemoConfig) -> list[Any]:
    """The analyses of the demo, in the order of the page."""
    behaviours = {"name": "behaviours", "patterns": config.behaviours, "model": "chat", "before": "base"}
    return [
        *([behaviours] if config.behaviours else []),
        amplification_options(config.behaviours, config.num_prompts, full=config.full),
        {"name": "diff", "before": "base", "after": "chat", "top": 8, "kl_tokens": 8192 if config.full else 1024},
        {"name": "decoder_norms", "top": 25},
        *(["latent_scaling"] if config.full else []),
    ]


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


def amplification_options(patterns: Mapping[str, str], num_prompts: int, *, full: bool) -> dict[str, Any]:
    """Options for amplification in the demo: short answers to held-out questions."""
    return {
        "name": "amplification",
        "before": "base",
        "after": "chat",
        "alphas": [0.0, 0.25, 0.5, 1.0] if full else [0.0, 0.5, 1.0],
        "num_prompts": num_prompts,
        "samples_per_prompt": 4,
        "patterns": patterns,
        "sampling": {"max_new_tokens": 16, "plausibility": 0.001},
        "batch_rows": 250,
        "control": full,
    }
