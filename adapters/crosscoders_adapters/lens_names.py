"""Names that TransformerLens has for points of the adapter `transformers`."""

from __future__ import annotations

import re

PARTS = {
    "hook_resid_pre": ".input",
    "hook_attn_out": ".attention",
    "attn.hook_out": ".attention",
    "mlp.hook_in": ".mlp_input",
    "hook_mlp_out": ".mlp",
    "mlp.hook_out": ".mlp",
    "hook_resid_post": "",
}
"""What comes after `blocks.{i}.`, and what we have after `layers.{i}`."""

NAME = re.compile(r"blocks\.(\d+)\.([\w.]+)")


def canonical_point(name: str) -> str:
    """Our name of a point that is called as TransformerLens calls it; any other name as it is."""
    found = NAME.fullmatch(name)
    part = PARTS.get(found[2]) if found else None
    return name if found is None or part is None else f"layers.{int(found[1])}{part}"


def advice(name: str) -> str:
    """What to say of a name of TransformerLens that is not one of a point; empty for other names."""
    if not NAME.fullmatch(name) and not name.startswith(("hook_", "ln_final.", "embed.", "unembed.")):
        return ""
    taken = ", ".join(f"blocks.0.{part}" for part in PARTS)
    return f"; of TransformerLens' names it takes {taken} and those of the other layers, and the adapter " + (
        "'transformer_lens' takes them all"
    )
