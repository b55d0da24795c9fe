"""What the processor at hand does fast."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

CPU_FLAGS = {"avx512_bf16", "amx_bf16"}
"""Instructions that multiply bf16 numbers and sum in fp32, as Linux calls them."""


def preselection(wanted: str, device: torch.device) -> str:
    """`bf16` or `fp32`: what pre-selection by `wanted` is on a device, where `auto` takes the faster."""
    if wanted != "auto":
        return wanted
    return "bf16" if has_bf16(device.type) else "fp32"


@cache
def has_bf16(device_type: str) -> bool:
    """Whether products in bf16 are several times as fast as those in fp32; where nobody says so, they are not."""
    if device_type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device_type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return not CPU_FLAGS.isdisjoint(flags.split())
