"""What the workbench costs: steered generation over plain, evaluation over its passes, a second analysis.

    python bench/workbench.py [--tokens 65536] [--new-tokens 64] [--repeats 7]

The shipped pair, a crosscoder with weights as they start (what is timed does not depend on training), one thread. Plain
and steered generation take turns, and the median of the ratios of neighbouring turns counts. Recorded in
`bench/results/workbench.json`.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from crosscoders import ActivationConfig, ModelChoice, Study, TokenSourceChoice, analyse, build_crosscoder
from crosscoders.activations.harvest import resolve_sites
from crosscoders.crosscoder.initialise import initialise
from crosscoders.training.fidelity import spliced_losses

SITES = ("base/layers.2", "chat/layers.2")


def timed(work: Callable[[], Any]) -> float:
    """Processor seconds of one call: with one thread what it takes on an idle core."""
    started = time.process_time()
    work()
    return time.process_time() - started


def make_study(num_tokens: int, num_latents: int = 2048) -> Study:
    """A study of the shipped pair on its usual tokens."""
    adapters = {key: ModelChoice.of("transformers", model=f"tiny-pair/{key}").build() for key in ("base", "chat")}
    crosscoder = build_crosscoder("acausal", resolve_sites(adapters, SITES).sites, num_latents=num_latents)
    initialise(crosscoder, decoder_norm=1.0, generator=torch.Generator().manual_seed(0))
    source = TokenSourceChoice.of("python_library").build()
    config = ActivationConfig(rows_per_forward=16)
    study = Study(crosscoder, adapters, source, activations=config, num_tokens=num_tokens)
    # About 32 latents per token, as a trained one has.
    crosscoder.normaliser.set_mean_norms(torch.full((2,), 40.0))
    batch = next(iter(study.with_tokens(512).batches()))
    pre_BF = crosscoder.pre_activations(crosscoder.normalised(batch.x_BX))
    with torch.no_grad():
        crosscoder.b_enc_F -= pre_BF.flatten().kthvalue(int(pre_BF.numel() * (1 - 32 / num_latents))).values
    study._shared.clear()
    return study


def generation(study: Study, *, new_tokens: int, repeats: int) -> dict[str, Any]:
    """Milliseconds per generated token, and the ratio, for one prompt and a batch of left-padded ones."""
    found = {}
    prompts = ["What does the function join do?", "Tell me a story.", "How do I open a file and read its lines?", "Hi"]
    for name, batch in (("one prompt", prompts[:1]), ("four prompts", prompts)):
        arms = {"plain": study.steer({}), "steered": study.steer({181: 8.0}), "ablated": study.steer({181: "ablate"})}
        # An end token would make answers of different lengths.
        for adapter in study.adapters.values():
            adapter.end_tokens = frozenset  # type: ignore[method-assign]
        seconds: dict[str, list[float]] = {arm: [] for arm in arms}
        for turn in range(repeats + 1):
            for arm, steered in arms.items():
                used = timed(lambda steered=steered, batch=batch: steered.generate(batch, max_new_tokens=new_tokens))
                if turn:
                    seconds[arm].append(used)
        found[name] = {f"{arm}_ms_per_token": 1e3 * statistics.median(s) / new_tokens for arm, s in seconds.items()}
        for arm in ("steered", "ablated"):
            ratios = [a / b for a, b in zip(seconds[arm], seconds["plain"], strict=True)]
            found[name][f"{arm}_over_plain"] = statistics.median(ratios)
    return found


def passes(num_tokens: int) -> dict[str, Any]:
    """Seconds of two analyses, sharing what the study keeps and without."""
    names: list[Any] = ["latent_scaling", {"name": "decoder_norms", "top": 0}]
    shared = make_study(num_tokens)
    with_sharing = [timed(lambda name=name: analyse(shared.crosscoder, [name], study=shared)) for name in names]
    reading = make_study(num_tokens)
    first_pass = timed(lambda: [batch.latents for batch in reading.batches()])
    apart = []
    for name in names:
        alone = make_study(num_tokens)
        apart.append(timed(lambda name=name, alone=alone: analyse(alone.crosscoder, [name], study=alone)))
    return {
        "tokens": num_tokens,
        "first_pass_s": first_pass,
        "latent_scaling_first_s": with_sharing[0],
        "latent_scaling_over_first_pass": with_sharing[0] / first_pass,
        "decoder_norms_second_s": with_sharing[1],
        "latent_scaling_alone_s": apart[0],
        "decoder_norms_alone_s": apart[1],
    }


def fidelity(num_tokens: int, repeats: int) -> dict[str, Any]:
    """Seconds of a spliced evaluation over those of the forward passes that it needs, on activations that are kept."""
    study = make_study(num_tokens)
    batches = list(study.batches())
    calls: list[tuple[Any, Any]] = []
    for adapter in study.adapters.values():
        plain = adapter.logits
        adapter.logits = lambda tokens, edits=(), plain=plain: (  # type: ignore[attr-defined]
            calls.append((plain, tokens)) or plain(tokens, edits)
        )
    mean_X = torch.cat([batch.x_BX for batch in batches]).mean(dim=0)

    def evaluate() -> None:
        spliced_losses(study.crosscoder, study.adapters, batches, mean_X)

    evaluate()
    needed = list(calls)
    seconds: dict[str, list[float]] = {"evaluation": [], "passes": []}
    for _ in range(repeats):
        seconds["evaluation"].append(timed(evaluate))
        seconds["passes"].append(timed(lambda: [plain(tokens) for plain, tokens in needed]))
    ratios = [a / b for a, b in zip(seconds["evaluation"], seconds["passes"], strict=True)]
    return {
        "tokens": num_tokens,
        "forward_passes_of_each_row": len(SITES) * 4,
        "evaluation_s": statistics.median(seconds["evaluation"]),
        "forward_passes_s": statistics.median(seconds["passes"]),
        "ratio": statistics.median(ratios),
    }


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=65_536)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    study = make_study(512)
    results = {
        "machine": {"processor": platform.machine(), "torch": torch.__version__, "threads": 1},
        "generation": generation(study, new_tokens=options.new_tokens, repeats=options.repeats),
        "fidelity": fidelity(2048, options.repeats),
        "passes": passes(options.tokens),
    }
    path = Path(__file__).parent / "results" / "workbench.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
