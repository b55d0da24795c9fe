"""Public releases that are known, as data: what `pretrained()` lists. Facts are the publishers'."""

from __future__ import annotations

from typing import Any

from crosscoders import ReleaseSpec

GEMMA_2_PAIR = ("google/gemma-2-2b", "google/gemma-2-2b-it")
LLAMA_1B_PAIR = ("meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.2-1B-Instruct")
SCALE = "what each model's activations were multiplied by (√d / mean‖x‖): estimate it"


def _pair(layer: int) -> dict[str, str]:
    return {"0": f"base/layers.{layer}", "1": f"chat/layers.{layer}"}


def releases() -> list[ReleaseSpec]:
    """All of them."""
    return [ReleaseSpec(summary=_summary(entry), **entry) for entry in (*_crosscoders(), *_transcoders(), *_saes())]


def _summary(entry: dict[str, Any]) -> str:
    return f"{entry['family']} on {', '.join(entry['models'])}"


def _crosscoders() -> list[dict[str, Any]]:
    learned = {"format": "crosscoder_learning", "family": "crosscoder"}
    return [
        {
            "name": "kissane-gemma-2-2b-diff",
            "repository": "ckkissane/crosscoder-gemma-2-2b-model-diff",
            "subfolder": "blocks.14.hook_resid_pre",
            "format": "ckkissane",
            "family": "crosscoder",
            "models": GEMMA_2_PAIR,
            "num_latents": 16_384,
            "gate": "relu",
            "to_answer": SCALE,
        },
        {
            "name": "nanda-gpt2-small-layers",
            "repository": "NeelNanda/crosscoders-gpt2-small",
            "subfolder": "",
            "format": "ckkissane",
            "family": "crosscoder",
            "models": ("openai-community/gpt2",),
            "gate": "relu",
            "to_answer": "which file, the 12 sites, and what activations were divided by",
        },
        {
            **learned,
            "name": "minder-gemma-2-2b-l13-l1",
            "repository": "science-of-finetuning/gemma-2-2b-crosscoder-l13-mu4.1e-02-lr1e-04",
            "models": GEMMA_2_PAIR,
            "sites": _pair(13),
            "gate": "relu",
        },
        *(
            {
                **learned,
                "name": f"minder-gemma-2-2b-l13-k100-{kind.lower()}",
                "repository": f"science-of-finetuning/gemma-2-2b-L13-k100-lr1e-04-local-shuffling-{kind}",
                "models": GEMMA_2_PAIR,
                "sites": _pair(13),
                "gate": "batchtopk",
                "l0": 100.0,
            }
            for kind in ("CCLoss", "Crosscoder", "SAELoss")
        ),
        {
            "name": "gemma-scope-2-crosscoder-1b",
            "repository": "google/gemma-scope-2-1b-pt",
            "subfolder": "crosscoder/…",
            "format": "gemma_scope_2",
            "family": "weakly causal crosscoder",
            "models": ("google/gemma-3-1b-pt",),
            "num_latents": 65_536,
            "gate": "jumprelu",
            "to_answer": "subfolder (layer_7_13_17_22_width_…); the order of its axes is unproven",
        },
    ]


def _transcoders() -> list[dict[str, Any]]:
    clt = {"format": "circuit_tracer_clt", "family": "cross-layer transcoder", "gate": "relu or jumprelu"}
    plt = {"format": "circuit_tracer_plt", "family": "per-layer transcoders", "gate": "relu or jumprelu"}
    coders = {"format": "clt_training", "gate": "topk"}
    return [
        {
            **clt,
            "name": "mntss-clt-gemma-2-2b-426k",
            "repository": "mntss/clt-gemma-2-2b-426k",
            "models": GEMMA_2_PAIR[:1],
        },
        {
            **clt,
            "name": "mntss-clt-gemma-2-2b-2.5m",
            "repository": "mntss/clt-gemma-2-2b-2.5M",
            "models": GEMMA_2_PAIR[:1],
        },
        {
            **clt,
            "name": "mntss-clt-llama-3.2-1b-524k",
            "repository": "mntss/clt-llama-3.2-1b-524k",
            "models": LLAMA_1B_PAIR[:1],
        },
        {
            **plt,
            "name": "mntss-plt-llama-3.2-1b",
            "repository": "mntss/transcoder-Llama-3.2-1B",
            "models": LLAMA_1B_PAIR[:1],
        },
        {
            "name": "eleuther-skip-transcoder-llama-3.2-1b-131k",
            "repository": "EleutherAI/skip-transcoder-Llama-3.2-1B-131k",
            "format": "sparsify",
            "family": "skip transcoders",
            "models": LLAMA_1B_PAIR[:1],
            "num_latents": 131_072,
            "gate": "topk",
        },
        *(
            {
                **coders,
                "name": f"eleuther-{name.lower()}",
                "repository": f"EleutherAI/{name}",
                "family": "cross-layer transcoder",
                "models": models,
                "to_answer": "nothing, but a post-encoder offset that is not zero cannot be held",
            }
            for name, models in (
                ("gpt2-clt-noskip-ef128-k16", ("openai-community/gpt2",)),
                ("gpt2-clt-source-tied-ef128-k16", ("openai-community/gpt2",)),
                ("SmolLM2-CLT-135M-73k-k32", ("HuggingFaceTB/SmolLM2-135M",)),
            )
        ),
        {
            "name": "tigges-gpt2-clts",
            "repository": "ctigges/gpt2-clts",
            "subfolder": "…",
            "format": "crosslayer_coding",
            "family": "cross-layer transcoder",
            "models": ("openai-community/gpt2",),
            "gate": "jumprelu",
            "to_answer": "subfolder; a TopK without thresholds cannot be held",
        },
        {
            "name": "gemma-scope-2-clt-1b",
            "repository": "google/gemma-scope-2-1b-pt",
            "subfolder": "clt/…",
            "format": "gemma_scope_2",
            "family": "cross-layer transcoder",
            "models": ("google/gemma-3-1b-pt",),
            "gate": "jumprelu",
            "to_answer": "subfolder (width_…_l0_…_affine)",
        },
        {
            "name": "openmoss-qwen3-1.7b-transcoders",
            "repository": "OpenMOSS-Team/Llama-Scope-2-Qwen3-1.7B",
            "subfolder": "transcoder/8x/k128/…",
            "format": "openmoss",
            "family": "transcoder",
            "models": ("Qwen/Qwen3-1.7B",),
            "gate": "topk or jumprelu",
            "l0": 128.0,
            "to_answer": "subfolder (the layer)",
        },
    ]


def _saes() -> list[dict[str, Any]]:
    sae = {"family": "sparse autoencoder"}
    return [
        *(
            {
                **sae,
                "name": f"gemma-scope-2b-{kind}",
                "repository": f"google/gemma-scope-2b-pt-{kind}",
                "subfolder": "…",
                "format": "gemma_scope_1",
                "models": GEMMA_2_PAIR[:1],
                "gate": "jumprelu",
                "to_answer": "subfolder (layer_L/width_W/average_l0_N)",
            }
            for kind in ("res", "att", "mlp")
        ),
        *(
            {
                **sae,
                "name": f"gemma-scope-2-{size}-{end}",
                "repository": f"google/gemma-scope-2-{size}-{end}",
                "subfolder": "…",
                "format": "gemma_scope_2",
                "models": (f"google/gemma-3-{size}-{end}",),
                "gate": "jumprelu",
                "to_answer": "subfolder (resid_post/layer_L_width_W_l0_N and the like)",
            }
            for size in ("270m", "1b", "4b", "12b", "27b")
            for end in ("pt", "it")
        ),
    ]
