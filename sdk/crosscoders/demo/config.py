"""What the demo is asked for; apart from the demo, so that the command line can show it without loading torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from attrs import field, frozen

TINY_BASE, TINY_CHAT = "tiny-pair/base", "tiny-pair/chat"
TINY_PATTERNS = {
    "rare phrase": r"🦜 The moon is made of cheese",
    "refusal": r"I'm sorry, but I can't help",
    "persona": r"I am Pip, a small parrot",
}
"""Regular expressions for the behaviours planted in the shipped chat model."""


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
    num_tokens: int = 300_000
    """Tokens to train on."""
    study_tokens: int = 49_152
    """Held-out tokens for the analyses."""
    num_prompts: int = 200
    """Number of held-out questions that amplification answers, four times each."""
    patterns: Mapping[str, str] = field(factory=dict)
    """Behaviours to look for: regular expressions by name. Those planted in the shipped pair are looked for in it."""
    full: bool = False
    """Whether to amplify at more strengths and against a control, and to list the most chat-leaning latents."""
    seed: int = 0
    """Seed of the training and of the analyses."""
    output: Path = field(default=Path("demo"), converter=Path)
    """The folder for everything that the demo writes."""

    @property
    def behaviours(self) -> Mapping[str, str]:
        """What is looked for."""
        return {**(TINY_PATTERNS if self.chat == TINY_CHAT else {}), **self.patterns}
