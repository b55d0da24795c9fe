"""What the demo found, in plain words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ..reports import Report
from .config import TINY_CHAT, DemoConfig

MEANINGS = {
    "specific": "No other model has anything in the latent's place",
    "rotated": "The other model has something in the latent's place, under another direction",
    "mostly": "The other model has the latent's concept too, but weaker",
    "shared": "The other model has the latent's concept too",
    "undecided": "The text does not show whether the other model has the latent's concept",
}
"""Verdicts in plain words."""


def findings(config: DemoConfig, reports: Sequence[Report]) -> list[str]:
    """A sentence about the behaviours that were looked for, then one line for each; none where there are none."""
    by_title = {report.title: report for report in reports}
    if "Behaviours" not in by_title:
        return []
    behaviours, arms = by_title["Behaviours"].data, by_title["Amplification"].data["arms"]
    verdicts = by_title["Diff"].data["verdict"]
    planted = config.chat == TINY_CHAT and not config.patterns
    names = ", ".join(config.behaviours)
    count = f"{len(config.behaviours)} behaviours that " if len(config.behaviours) > 1 else "the behaviour that "
    what = "were planted in the chat model" if planted else "you asked for"
    lines = [f"What fine-tuning taught {config.chat}, looking for {count}{what}: {names}."]
    for number, name in enumerate(config.behaviours, start=1):
        line = f"{number}. {behaviours['said'][name]}"
        if behaviours["latents"][name]:
            verdict = verdicts[behaviours["latents"][name][0]]
            line += f" {MEANINGS[verdict.split()[0]]} (verdict: {verdict})."
        lines.append(f"{line} {_rates(name, arms)}")
    return [*lines, _difference(by_title["Diff"].data)]


def _difference(diff: Mapping[str, Any]) -> str:
    """What all latents say about the two models together."""
    counts = Counter(verdict.split()[0] for verdict in diff["verdict"])
    carried = {kind: share for kind, share in diff["causal"].items() if kind in diff["verdict"] and share >= 0.1}
    line = "All latents together: " + ", ".join(f"{count} {kind}" for kind, count in counts.most_common()) + "."
    if carried:
        most = max(carried, key=carried.__getitem__)
        line += (
            f" Of what makes {diff['after']} predict otherwise than {diff['before']} (KL), the '{most}' ones carry "
            f"{carried[most]:.0%}."
        )
    return line


def _rates(name: str, arms: Sequence[dict[str, Any]]) -> str:
    rates = {arm["alpha"]: arm["hits"][name] / arm["answers"] for arm in arms}
    best = max(rates, key=rates.__getitem__)
    text = f"The behaviour is in {rates[0.0]:.1%} of chat's own answers"
    return f"{text}, and in {rates[best]:.1%} where the difference is amplified (α = {best:g})." if best else f"{text}."


def chat_leaning(reports: Sequence[Report]) -> list[str]:
    """The latents whose norm lies most at the chat model, with the ends of their strongest examples and verdicts."""
    by_title = {report.title: report for report in reports}
    norms, scaling = by_title["Decoder norms"], by_title["Latent scaling"]
    lines = [norms.summary, scaling.summary, "Most chat-leaning latents, with the tokens of their strongest examples:"]
    examples = {entry.heading: entry for part in norms.parts for entry in getattr(part, "entries", ())}
    for latent in norms.data["most_specific"][norms.data["sites"][-1]]:
        peaks = []
        for context in examples[f"latent {latent}"].contexts[:4]:
            at = context.activations.index(max(context.activations))
            peaks.append("".join(context.tokens[max(0, at - 3) : at + 1]).replace("\n", "⏎"))
        share = norms.data["share"][latent][-1]
        lines.append(f"  {latent:5d}  share {share:.2f}  {scaling.data['verdict'][latent]}  {' | '.join(peaks)}")
        lines.append(f"         {scaling.data['reason'][latent]}")
    return lines
