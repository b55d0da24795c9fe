"""What the demo is asked for; apart from the demo, so that the command line can show it without loading torch."""

from __future__ import annotations

from pathlib import Path

from attrs import field, frozen

TINY_BASE, TINY_CHAT = "tiny-pair/base", "tiny-pair/chat"


@frozen(kw_only=True)
class DemoConfig:
    """Which pair of models to compare, at which layer, and with how much data."""

    base: str = TINY_BASE
    """The model before fine-tuning: Hub id or folder."""
    chat: str = TINY_CHAT
    """The model after fine-tuning: Hub id or folder."""
    layer: int = -1
    """The layer whose output is compared; −1 takes the middle one."""
    num_latents: int = 2048
    """The number of latents of the crosscoder."""
    k: int = 32
    """Active latents per token."""
    num_tokens: int = 450_000
    """Tokens to train on."""
    study_tokens: int = 65_536
    """Held-out tokens for the analyses."""
    num_prompts: int = 200
    """Number of held-out questions that amplification answers, five times each."""
    seed: int = 0
    """Seed of the training and of the analyses."""
    output: Path = field(default=Path("demo"), converter=Path)
    """The folder for everything that the demo writes."""
