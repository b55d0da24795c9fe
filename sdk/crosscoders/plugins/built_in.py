"""What the host offers by itself: the gates of its own, so that no plugin of a loss is needed to load a checkpoint."""

from __future__ import annotations

from .specs import GateSpec

_HERE = "crosscoders.crosscoder.gates"

GATES = tuple(
    GateSpec(name=name, config=f"{_HERE}:{stem}Config", build=f"{_HERE}:{build}", summary=summary)
    for name, stem, build, summary in (
        ("relu", "ReluGate", "make_relu", "On where the pre-activation is positive."),
        (
            "score_threshold",
            "ScoreThresholdGate",
            "make_score_threshold",
            "On where f times decoder norm exceeds a threshold.",
        ),
        ("jumprelu", "JumpReluGate", "make_jumprelu", "On where the activation exceeds the latent's own threshold."),
        ("topk", "TopKGate", "make_topk", "The k largest scores of each token."),
    )
)
